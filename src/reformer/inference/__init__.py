"""Floor 4: what uses a model: evaluation, predictions, generation."""
