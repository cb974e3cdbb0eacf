"""Reports as self-contained HTML pages: layout, charts and rendering."""
