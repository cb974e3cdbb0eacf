"""Gibbs sampling for Bayesian matrix factorization."""
