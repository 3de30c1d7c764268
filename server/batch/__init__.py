"""OpenAI batch files, answered by the service in this process: JSONL in, JSONL out, resumable."""
