"""Facts about items as a graph of entities."""
