"""Layers: attention, recurrent cells, convolutions, positions."""
