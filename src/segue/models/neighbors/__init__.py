"""Neighborhood and linear item-item models."""
