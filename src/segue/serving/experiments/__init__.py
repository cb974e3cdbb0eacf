"""A/B experiments: assignment, exposures, outcomes."""
