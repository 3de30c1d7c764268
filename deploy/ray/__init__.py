"""Many replicas of the server on one machine or many, run by Ray Serve.

Each replica is the ordinary app with an engine of its own; an ingress in front sends requests
with the same image to the replica that has seen it. Nothing here is imported by the server.
"""
