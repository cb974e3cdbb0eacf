"""Speed and memory: Segue beside the libraries people use today, and its parts alone. Not part of the package."""
