"""One model = one file = one key: the name of the file."""
