"""The fused backend: one compiled CPU kernel per update."""
