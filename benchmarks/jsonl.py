"""JSON lines that survive being cut: written as their work ends, half a line is passed over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def append(path: Path, fields: Mapping[str, Any]) -> None:
    """Write one line, behind a half one on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut else "") + json.dumps(fields) + "\n")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """All whole lines; none where there is no file."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            fields = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(fields, dict):
            yield fields


def open_session(path: Path, circumstances: Mapping[str, Any]) -> str:
    """Append ``circumstances`` under a name of their own, and return it."""
    name = str(sum(1 for _ in lines(path)))
    append(path, {"session": name, **circumstances})
    return name
