"""Long comparisons, each one command that goes on where it stopped."""
