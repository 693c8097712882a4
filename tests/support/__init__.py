"""What several test files share: scripts started by fork, runs to look at, a stand-in for wandb's server."""
