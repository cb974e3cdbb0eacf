"""Share the engine thread among requests and clients."""
