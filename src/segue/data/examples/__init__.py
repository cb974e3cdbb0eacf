"""Tables of labeled examples: sources, readers and splits."""
