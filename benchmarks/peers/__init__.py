"""Ours beside the servers that one would pick instead: same machine, same model, same requests.

``python -m benchmarks.peers`` starts what ``servers.toml`` names, drives each in turn through
W1–W7, writes one JSON line a run, and goes on where it stopped. Knows a server by its command and
its HTTP alone.
"""
