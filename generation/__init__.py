"""A version's name -> pictures."""
