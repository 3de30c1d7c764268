"""``/v1/responses``: OpenAI's newer protocol, as another way to ask for a chat."""
