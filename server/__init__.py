"""The HTTP service: OpenAI's vocabulary outside, the engine's inside. Knows no torch."""
