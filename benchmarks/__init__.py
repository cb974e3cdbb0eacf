"""Benchmarks: Segue compared with other libraries, and measurements of its parts. Not part of the package."""
