"""The errors a user of the library can meet, as one tree.

DyvteError
├── OptionError      a request's own settings: names the field, the value and the remedy
├── PromptError      a prompt that this model cannot take
│   └── PromptTooLong  it and its answer do not fit the model's context
├── ModelError       a folder, hub id or gate file that cannot be loaded
└── EngineError      the engine could not finish a request
    ├── QueueFull    not admitted: the waiting line is full
    ├── EngineStopped  draining, stopped or dead
    │   └── EngineDied   its thread has died: start the process anew
    └── RequestFailed  this request's own step raised; its batch mates go on
        └── GrammarFailed  its answer cannot go on in the form that it asked for
"""

from __future__ import annotations


class DyvteError(Exception):
    """Base of everything that is raised on purpose."""


class OptionError(DyvteError, ValueError):
    """A setting that is out of range or does not fit the others.

    ``field`` is the name as the user wrote it, without any prefix (``"exit_layer"``).
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class PromptError(DyvteError, ValueError):
    """A prompt that does not fit the model (too long, images and placeholders differ, …)."""


class PromptTooLong(PromptError):
    """Prompt and asked tokens exceed the model's context."""


class ModelError(DyvteError, ValueError):
    """A model or gate folder that is missing, incomplete or of an unknown kind."""


class EngineError(DyvteError, RuntimeError):
    """The engine could not serve a request."""


class QueueFull(EngineError):
    """The waiting line is full; ``retry_after_s`` is the engine's guess of when it is not."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineStopped(EngineError):
    """The engine drains, has stopped, or its thread has died."""


class EngineDied(EngineStopped):
    """Its thread has died: nothing is served until the process is started anew."""


class RequestFailed(EngineError):
    """A step raised for this request alone; ``request_id`` finds it in the log."""

    def __init__(self, message: str, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id


class GrammarFailed(RequestFailed):
    """The grammar of a structured output became too complex, or no token fits it any more."""

    def __init__(self, message: str, request_id: str = "") -> None:
        super().__init__(message, request_id)
