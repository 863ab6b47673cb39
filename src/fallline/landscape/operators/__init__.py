"""Curvature operators, such as the Hessian and the Gauss-Newton matrix, represented by matrix-vector products."""
