"""Loops over scores, compiled with numba."""
