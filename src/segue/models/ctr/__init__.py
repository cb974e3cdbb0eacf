"""Click-through models, which predict the label of an interaction."""
