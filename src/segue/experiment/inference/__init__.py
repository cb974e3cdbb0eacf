"""Use a trained model from Python and the command line: recommend, rank, predict, compare, explain."""
