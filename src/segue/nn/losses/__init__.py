"""Losses, and samplers of their negatives."""
