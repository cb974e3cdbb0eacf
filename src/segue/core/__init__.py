"""Core values, settings, registry, run context and bundles."""
