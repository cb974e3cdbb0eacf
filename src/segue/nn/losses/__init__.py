"""Losses over items and samplers of negatives."""
