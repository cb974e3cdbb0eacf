"""Who computes: one interface, and one file for each way to run a model."""
