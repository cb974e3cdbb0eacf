"""Similarity measures of items and users, and nearest neighbors."""
