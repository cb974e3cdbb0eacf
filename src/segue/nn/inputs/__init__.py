"""Input encoders: item embeddings, event inputs, side features."""
