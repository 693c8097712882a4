"""The run folder: catalog, versions, training state, scores, metrics log."""
