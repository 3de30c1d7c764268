"""Messages to token ids: chat templates, conversation formats, what bytes a token stands for."""
