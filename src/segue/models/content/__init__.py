"""Models of item content: features and text."""
