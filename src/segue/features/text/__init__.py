"""Text: preprocessing, encoders, and a cache of vectors."""
