"""Text on covers: OCR of their lines, what is kept of it, and how much of a title they show."""
