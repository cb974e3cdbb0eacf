"""Layers of click-through models: embeddings of fields, interactions and towers."""
