"""Update rules: the declaration of a rule, the complete update around it, and the functions that a rule may call."""
