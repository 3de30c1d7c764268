"""From `dyvte demo render` to the parquet file of the lmms-eval task beside this script.

Runs in lmms-eval's own environment (it needs pyarrow, which comes with `datasets`):
`python docs/lmms-eval/to_parquet.py runs/lmms-eval/test.jsonl runs/lmms-eval/test.parquet`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet


def row_of(line: str, folder: Path) -> dict[str, Any]:
    """One question about one picture, the picture's bytes with it."""
    row = json.loads(line)
    image, text = row["messages"][0]["content"]
    picture = (folder / image["image_url"]["url"]).read_bytes()
    told = {name: row[name] for name in ("id", "answer", "kind")}
    return told | {"image": picture, "question": text["text"]}


def main(source: str, target: str) -> None:
    """Convert the whole file."""
    path = Path(source)
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [row_of(line, path.parent) for line in lines]
    parquet.write_table(pyarrow.Table.from_pylist(rows), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
