"""Compute conclusions from the outcomes of trials: variances, intervals, verdicts and caveats."""
