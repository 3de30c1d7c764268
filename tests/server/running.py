"""A server on a loopback port with the fake engine: in a thread, or as a process of its own.

``python -m tests.server.running`` takes the flags of ``dyvte serve`` and answers slowly.
"""

from __future__ import annotations

import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from dyvte.engine.events import Engine
from dyvte.errors import ModelError
from server import __main__ as composition
from server.app import create_app
from server.listen import Listener, bind
from server.settings import Settings
from tests.server.fake_engine import FakeEngine


@contextmanager
def serve(
    engine: Engine, verify: ssl.SSLContext | bool = True, **settings: object
) -> Iterator[str]:
    """The base URL of a server in a thread; ``verify`` is for one that serves https."""
    operator = Settings.model_validate({"port": 0, "drain_timeout": 0.5, **settings})
    app = create_app(operator, lambda: engine)
    socket = bind(operator)
    listener = Listener(app, operator, app.state.lifecycle.drain)
    thread = threading.Thread(target=listener.run, args=([socket],), daemon=True)
    thread.start()
    scheme = "https" if operator.ssl_certfile else "http"
    url = f"{scheme}://127.0.0.1:{socket.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, verify=verify) as client:
            until(lambda: listener.started and client.get("/ready").status_code == 200)
        yield url
    finally:
        listener.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def until(condition: object, seconds: float = 10) -> None:
    """Wait for ``condition()``; fail after ``seconds``."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def open_slow(settings: Settings) -> FakeEngine:
    """Stands in for the real engine in the process; ``--model broken`` cannot be loaded."""
    if settings.model == "broken":
        raise ModelError("broken: no such folder; give a model folder")
    return FakeEngine(answer=b"x" * 60, step_s=0.02)


if __name__ == "__main__":
    composition.open_engine = open_slow
    sys.exit(composition.main(sys.argv[1:]))
