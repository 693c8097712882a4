"""mini: a miniature Stable Diffusion pipeline, and the code that trains it from scratch (make.py)."""
