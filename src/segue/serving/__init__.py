"""HTTP service for trained recommenders: recommendations, events, explanations, rules, experiments and metrics."""
