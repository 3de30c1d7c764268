"""One adapter per model family, readers for original checkpoints, and the registry of both."""
