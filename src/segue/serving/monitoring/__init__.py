"""Metrics, logs, drift and live statistics."""
