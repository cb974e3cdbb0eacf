"""Public datasets of labeled examples; the name of a file is the key."""
