"""Rerank rules: filters, boosts, quotas, pins, diversity."""
