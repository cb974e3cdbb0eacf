"""Where events and what is remembered of users are kept: one interface, and a file for each kind of store."""
