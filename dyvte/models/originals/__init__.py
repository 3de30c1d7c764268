"""Readers for checkpoints in the layouts in which their authors published them."""
