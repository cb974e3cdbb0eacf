"""Sequential models: predict the next item of a history."""
