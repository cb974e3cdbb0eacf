"""What everyone shares: values, settings, the registry, the run and the bundle."""
