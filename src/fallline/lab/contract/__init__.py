"""The contract of a task, which is checked before anything is trained."""
