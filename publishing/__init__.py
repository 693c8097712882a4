"""A version as others load it: exported to files."""
