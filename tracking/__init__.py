"""wandb, trackio, tensorboard; uploads and downloads; listing and publishing."""
