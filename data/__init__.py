"""Reads a data folder in the Goodreads layout: books, cover images, prompts, aspect-ratio buckets."""
