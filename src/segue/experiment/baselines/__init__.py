"""Simple baselines: what is reachable without learning."""
