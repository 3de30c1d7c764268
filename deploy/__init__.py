"""What runs the server for other people: containers, monitoring, many replicas. Not installed."""
