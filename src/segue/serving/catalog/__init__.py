"""The item catalog of a model: features, titles, search."""
