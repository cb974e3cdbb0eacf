"""Neural collaborative filtering, autoencoders and graph models."""
