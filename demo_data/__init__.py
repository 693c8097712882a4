"""The demo data set: invented books with covers drawn by code, in the Goodreads layout."""
