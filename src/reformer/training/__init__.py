"""Floor 4: training, evaluation, generation."""
