"""Baselines without personalization."""
