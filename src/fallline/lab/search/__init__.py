"""Which trials come next: search points, extensions, finalists and confirmation seeds."""
