"""Metrics of recommendation lists beyond accuracy.

They measure novelty, diversity, coverage, popularity bias, calibration and fairness.
"""
