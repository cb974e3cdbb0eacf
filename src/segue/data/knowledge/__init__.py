"""Read triples, link them to items, and store the graph with the prepared data."""
