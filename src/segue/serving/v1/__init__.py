"""The routes under ``/v1``, a file for each group of them."""
