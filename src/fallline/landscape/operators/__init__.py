"""Linear operators of the curvature: the Hessian and its relatives, known by their products with vectors."""
