"""Schedule-free optimizers: an average of the iterates in place of a decay of the learning rate."""
