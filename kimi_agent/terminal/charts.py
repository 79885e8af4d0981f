"""The pictures of a page, as SVG."""
