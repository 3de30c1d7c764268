"""Continuous batching over the packed forward: scheduler, runner, one thread, an async handle."""
