"""`reformer serve`: prompts that are read once, answered many times."""
