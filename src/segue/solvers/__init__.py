"""Solvers of factor models and linear models.

Ridge regression, conjugate gradients, stochastic gradient descent and Gibbs sampling.
"""
