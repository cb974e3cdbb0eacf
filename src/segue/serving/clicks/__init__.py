"""Serve click-through models: probabilities for the rows of a table."""
