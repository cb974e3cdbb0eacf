"""The one loop that trains a network, and what it is made of."""
