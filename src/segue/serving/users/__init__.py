"""Queries, features and states of users."""
