"""Features of items, users and events: text, sentiment, context."""
