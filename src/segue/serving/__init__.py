"""HTTP service for trained recommenders.

It offers recommendations, events, explanations, rules, experiments and metrics.
"""
