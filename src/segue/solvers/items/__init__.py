"""Regressions of items on other items, and the counts that they need."""
