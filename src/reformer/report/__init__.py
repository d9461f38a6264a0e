"""Floor 5: plots and pages."""
