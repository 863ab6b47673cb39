"""The base class of the optimizers: options, state, state dicts and step plans."""
