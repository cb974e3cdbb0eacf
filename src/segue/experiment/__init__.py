"""One experiment: settings, data, split, train, evaluate, record; and what can be asked of its run afterwards."""
