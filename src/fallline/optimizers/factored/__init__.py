"""Optimizers with states of other shapes than the parameter: factored second moments and eigenbases."""
