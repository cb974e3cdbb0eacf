"""Factorization machines: design matrices, Gibbs sampling and ALS."""
