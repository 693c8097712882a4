"""Where a cover's letters stand, as layouts and as glyph pages that the model is shown."""
