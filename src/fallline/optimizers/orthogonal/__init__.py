"""Optimizers whose steps are orthogonalized momentum."""
