"""GPU memory: forecast what a configuration needs, and suggest options that need less."""
