"""Features of items and users as comparable columns, and classes of users."""
