"""Run a single trial: training, evaluation, detection of divergence, timing and curvature."""
