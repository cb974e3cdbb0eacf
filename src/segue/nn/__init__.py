"""PyTorch building blocks of models."""
