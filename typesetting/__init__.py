"""Sets text on images: line breaking, font metrics, legible colours."""
