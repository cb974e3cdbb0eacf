"""Audit logs, splits and runs for faults that make figures wrong."""
