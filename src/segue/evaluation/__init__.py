"""Ranks, metrics, confidence intervals, paired tests and leakage checks."""
