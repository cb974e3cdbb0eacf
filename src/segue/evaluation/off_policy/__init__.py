"""Off-policy evaluation: the value of a policy from the log of another one.

All functions work on arrays. :func:`segue.evaluate_policy` reads logs and policies.

Shapes: Q queries (lists that were shown), K positions of a list, C candidates of a query.
"""
