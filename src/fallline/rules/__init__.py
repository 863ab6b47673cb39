"""Update rules: what a rule declares, the complete update around it, and the functions it may call."""
