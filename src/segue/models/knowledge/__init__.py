"""Models that read a knowledge graph of the items."""
