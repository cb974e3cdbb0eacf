"""Evaluation protocols by name."""
