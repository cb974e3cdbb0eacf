"""Collect what reports show: runs of one protocol, their users, and logs."""
