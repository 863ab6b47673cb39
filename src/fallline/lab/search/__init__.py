"""Determine the next trials: search points, range extensions, finalists and confirmation seeds."""
