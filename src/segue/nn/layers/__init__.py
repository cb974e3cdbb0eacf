"""Layers: attention, recurrent cells, convolutions, positional embeddings."""
