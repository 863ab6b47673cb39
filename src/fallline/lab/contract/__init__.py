"""The contract of a task, checked before anything is trained."""
