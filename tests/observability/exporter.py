"""A target that is no server: its page says what a test writes into it.

For what a healthy server never shows, such as faults of its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAMILY = "dyvte_requests_total"
SERIES = f'{FAMILY}{{model_name="made-up",endpoint="/v1/chat/completions",status_code="%s"}} %d'


class Exporter:
    """Counts ten requests a second; while ``failing`` every second one is a 500."""

    def __init__(self, port: int) -> None:
        self._good = self._bad = 0.0
        self._since = time.monotonic()
        self._failing = False
        self._lock = threading.Lock()
        exporter = self

        class Page(BaseHTTPRequestHandler):
            """``/metrics``, whatever the path."""

            def do_GET(self) -> None:  # the name is http.server's
                body = exporter.page().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # a scrape that took too long
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Page)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fail(self, failing: bool) -> None:
        """From now on."""
        self.page()
        self._failing = failing

    def page(self) -> str:
        """The counters now."""
        with self._lock:
            now = time.monotonic()
            requests = 10 * (now - self._since)
            self._since = now
            self._bad += requests / 2 if self._failing else 0
            self._good += requests / 2 if self._failing else requests
            lines = (SERIES % ("200", self._good), SERIES % ("500", self._bad))
        return f"# TYPE {FAMILY} counter\n" + "\n".join(lines) + "\n"

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
