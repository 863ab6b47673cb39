"""What is computed from products with an operator: eigenvalues, trace, density, sharpness."""
