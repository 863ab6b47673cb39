"""Quantities computed from products with an operator: eigenvalues, trace, spectral density, sharpness."""
