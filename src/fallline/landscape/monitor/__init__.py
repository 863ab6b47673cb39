"""Scalars of a running training."""
