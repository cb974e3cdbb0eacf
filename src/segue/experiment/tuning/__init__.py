"""Choose settings and models on validation."""
