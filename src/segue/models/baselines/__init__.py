"""Baselines: popularity, chance, and counts that need no learning."""
