"""Parts of the attack benchmark: the attacks, the attacked service, and its plain clients."""
