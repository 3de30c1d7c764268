"""What a benchmark found: JSON, its tables beside it in Markdown, and those tables put into a page.

The tables of ``runs/floors.json`` lie in ``runs/floors.md`` and go between ``<!-- floors -->`` and
``<!-- /floors -->``. Apart from the measurement, so that a page which changes does not make the
checkout differ from the commit that is being measured.

    python -m benchmarks.results runs/floors.json runs/exits.json --page docs/performance.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.page import put


def write(path: Path, figures: Mapping[str, Any], tables: str) -> None:
    """``figures`` as JSON, ``tables`` beside them; the folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(tables.strip() + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Put the tables of each file into a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="what benchmarks wrote")
    parser.add_argument("--page", type=Path, required=True)
    args = parser.parse_args(argv)
    for file in args.files:
        put(args.page, file.stem, file.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
