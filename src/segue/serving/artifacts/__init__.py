"""Model artifacts: what the service loads."""
