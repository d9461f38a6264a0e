"""Floor 4: what trains a model."""
