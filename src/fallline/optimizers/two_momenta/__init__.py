"""Optimizers with two momenta: running means of different lengths, or of the gradient and of its changes."""
