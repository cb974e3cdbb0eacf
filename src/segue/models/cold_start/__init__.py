"""Recommendations for new users: profiles, clusters, exploration and fold-in."""
