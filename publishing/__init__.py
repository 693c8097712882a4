"""A version for others: the model card in its folder, and the Hugging Face hub."""
