"""Part ``soak``: a service under traffic and trouble, and what is found afterwards."""
