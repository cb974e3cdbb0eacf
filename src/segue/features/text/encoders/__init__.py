"""Text encoders; one encoder per file."""
