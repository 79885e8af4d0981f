"""A conversation as one page for a browser."""
