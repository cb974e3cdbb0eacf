"""Solvers of factor and linear models: ridge, conjugate gradients, SGD, Gibbs sampling."""
