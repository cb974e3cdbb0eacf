"""A registry with one text encoder, for tests."""
