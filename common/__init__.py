"""Helpers that do not depend on books, models or options: errors, files, hashes, random numbers, PNG, devices."""
