"""What knows no book and no model: errors, files, hashing, random numbers, PNG, threads."""
