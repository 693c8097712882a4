"""What a configuration will need of a GPU, and what to do if it is too much."""
