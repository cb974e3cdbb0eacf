"""Tables, plots and pages of results, made from records: what a run's ``metrics.json`` holds."""
