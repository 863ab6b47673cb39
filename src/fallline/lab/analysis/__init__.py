"""From outcomes to conclusions: variances, intervals, verdicts and caveats."""
