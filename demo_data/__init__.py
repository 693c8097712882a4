"""Invented books with covers drawn by code, in the Goodreads layout."""
