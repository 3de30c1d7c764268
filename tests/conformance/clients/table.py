"""The page about clients, written from what their checks said; never edited by hand."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conformance.clients.run import Tried

HEAD = """# Clients

Programs that nobody here wrote, each in an environment of its own, against `dyvte serve --model
demo --dtype float32`. `make clients` installs them, asks again and writes this page; their
programs are in `tests/conformance/clients`.

| client | version | image | stream | tools | structured | |
|---|---|---|---|---|---|---|
"""
FOOT = """
- **image**: a picture through the client's own way to send one; the answer names the right colour.
- **stream**: pieces that, put together, are the answer that comes whole.
- **tools**: a call that the client asks for ("required" or by name), read from the reply by the
  client; its arguments keep to the tool's schema.
- **structured**: an answer that the client reads into a model or holds to a JSON schema.
- –: the client has no such thing, or its program here does not use it.

The demo model was not trained to call tools and knows no schemas: forms and calls are kept by
grammar, and what stands in them says nothing about a larger model.
"""


def page(tried: Sequence[Tried]) -> str:
    """The whole page."""
    rows = "".join(_row(one) for one in tried)
    passed = sum(one.passed for one in tried)
    today = datetime.now(UTC).date()
    source = (
        f"{passed} of {len(tried)} passed what is tried of them, on {today} at commit `{_commit()}`"
    )
    return f"{HEAD}{rows}\n{source} (Python {platform.python_version()}, Node {_node()}).\n{FOOT}"


def _row(one: Tried) -> str:
    cells = [_cell(one.results.get(name)) for name in ("image", "stream", "tools", "structured")]
    lost = [f"{name}: {said}" for name, said in one.results.items() if said != "pass"]
    notes = "; ".join([one.client.notes, *lost] if one.client.notes else lost)
    told = " ".join(notes.split())[:200].replace("|", "\\|")
    return f"| {one.client.client} | {one.client.version} | {' | '.join(cells)} | {told} |\n"


def _cell(said: str | None) -> str:
    if said is None:
        return "–"
    return "pass" if said == "pass" else "**fail**"


def _commit() -> str:
    here = Path(__file__).parent
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, cwd=here, capture_output=True, text=True).stdout.strip() or "?"


def _node() -> str:
    return subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
