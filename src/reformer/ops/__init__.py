"""Floor 0: operations, tensors in and tensors out."""
