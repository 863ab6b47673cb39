"""The loss as a function of the parameters: batches, the mean over data, directions, and state restoration."""
