"""From a batch of queries to ranked lists."""
