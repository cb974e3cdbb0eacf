"""Inference engines: one interface, one file per runtime."""
