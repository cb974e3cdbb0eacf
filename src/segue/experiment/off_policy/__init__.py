"""Off-policy evaluation of logged impressions."""
