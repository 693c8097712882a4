"""A version for others: exported to files, the model card in its folder, and the Hugging Face hub."""
