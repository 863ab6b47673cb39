"""The optimizer base class: options, state, state dicts and the plan of a step."""
