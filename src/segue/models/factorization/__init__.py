"""Matrix factorization models."""
