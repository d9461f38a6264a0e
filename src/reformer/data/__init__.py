"""Floor 3: text to tokens to windows."""
