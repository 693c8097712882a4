"""Glyph pages: title and author in a plain font where they stand on a cover, which a model learns to letter by."""
