"""The loss on a plane through the weights, and the path of a training in it."""
