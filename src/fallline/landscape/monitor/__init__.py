"""Recording of scalars during a training."""
