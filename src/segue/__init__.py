"""Segue: train, compare, explain and serve recommenders from a log of who did what and when."""

__version__ = "0.1.0"
