"""mini: a miniature Stable Diffusion, and the code that makes it from nothing (make.py)."""
