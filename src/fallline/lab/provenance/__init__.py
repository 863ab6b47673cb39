"""What a study ran on (versions, data, machine), and whether a trial still runs on it."""
