"""Floor 1: layers with plain arguments."""
