"""Ranks, metrics, intervals and paired tests."""
