"""Does the simulator see? Deliberate faults, each a small patch applied to a copy of the tree."""
