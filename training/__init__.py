"""Training: the input pipeline, losses, metrics and the fit loop."""
