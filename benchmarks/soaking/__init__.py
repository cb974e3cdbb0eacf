"""Part ``soak``: the service under traffic and injected faults, and the checks afterwards."""
