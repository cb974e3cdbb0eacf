"""Event stores: one interface, implemented for SQLite, PostgreSQL and Redis."""
