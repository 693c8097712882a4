"""Stable Diffusion 1.x as a library: components, loading, latents, objective, sampling, averages."""
