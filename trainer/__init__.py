"""One training process: session, loop, batches, losses, validation, optimizers, resume."""
