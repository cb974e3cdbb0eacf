"""From a source to a prepared, split dataset."""
