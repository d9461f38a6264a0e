"""What a layer keeps of the tokens that it has seen, so that the next ones cost the same at any context."""
