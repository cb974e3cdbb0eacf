"""Use a trained model from Python and the command line.

Supported tasks: recommend, rank, predict, compare and explain.
"""
