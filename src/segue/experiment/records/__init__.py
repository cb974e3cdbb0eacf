"""Record how a model was trained and how often its test part was read."""
