"""Measurements of time and memory, each with its provenance: ``python -m benchmarks.NAME``."""
