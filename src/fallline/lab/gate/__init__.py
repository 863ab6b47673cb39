"""The referee: sequential tests of proposed changes to a training script, within one error budget per session."""
