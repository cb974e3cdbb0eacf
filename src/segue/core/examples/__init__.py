"""Labeled examples: rows of fields with a label, such as impressions with clicks."""
