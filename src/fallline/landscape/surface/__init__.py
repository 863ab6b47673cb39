"""The loss on a plane through the weights, and the trajectory of a training in that plane."""
