"""Experiments and runs, and inference with trained models."""
