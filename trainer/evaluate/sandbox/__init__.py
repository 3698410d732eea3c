"""Where programs that nobody has read run: namespaces, limits, and one verdict."""
