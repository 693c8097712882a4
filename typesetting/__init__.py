"""Text -> lines -> letters on a picture."""
