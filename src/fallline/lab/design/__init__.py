"""The design of a study: arms, search spaces, optimizers, schedules, the specification and its trials."""
