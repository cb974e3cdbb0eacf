"""Pretrained language models that score texts."""
