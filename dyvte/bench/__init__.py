"""A load generator for any OpenAI-compatible chat server: latency, throughput, errors, exits.

Measures from the client's side, over HTTP and SSE alone; knows no torch and no engine.
"""
