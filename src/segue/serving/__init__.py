"""A trained recommender as a service: answers in milliseconds, takes events, says what it does."""
