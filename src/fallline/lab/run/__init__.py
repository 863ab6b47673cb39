"""One trial: its training, evaluation, divergence, timing and curvature."""
