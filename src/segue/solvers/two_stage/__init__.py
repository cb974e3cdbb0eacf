"""What the second of two stages learns from."""
