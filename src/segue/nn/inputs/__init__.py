"""Inputs of next-item models in addition to the items: event columns and features."""
