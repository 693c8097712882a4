"""A data folder -> books, images, prompts."""
