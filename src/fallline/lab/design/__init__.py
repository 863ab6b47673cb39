"""What a study will run: arms, search spaces, optimizers, schedules, the specification and its trials."""
