"""Stable Diffusion 1.x as a library: load and save a model, encode, compute the loss, sample, average weights."""
