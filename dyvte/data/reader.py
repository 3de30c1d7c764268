"""From a data file to samples: two layouts of a row, told apart row by row.

A row with ``conversations`` is LLaVA's, one with ``messages`` is OpenAI's; each may stand in a
JSON array or on a line of its own. A row that is neither, or is broken, goes to the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dyvte.data.chat import chat_samples
from dyvte.data.llava import llava_samples
from dyvte.data.pictures import PictureError
from dyvte.data.rows import read_rows
from dyvte.data.sample import DataError, Sample, Skips


def read_samples(
    path: str | Path, images: str | Path | None = None, skips: Skips | None = None
) -> Iterator[Sample]:
    """Yield the samples of ``path`` in order, reading as they are asked for.

    Image paths are relative to ``images``, or else to the file's folder. That a picture exists is
    checked here, that it decodes by ``Sample.load``. Rows that are malformed are added to
    ``skips``. Raises DataError for a file or folder that is not there or not JSON.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file} is not a file: give JSON lines or a JSON array")
    folder = Path(images) if images is not None else file.parent
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the one that image paths begin at")
    return _samples(file, folder, Skips() if skips is None else skips)


def _samples(file: Path, folder: Path, skips: Skips) -> Iterator[Sample]:
    groups: dict[str, int] = {}
    for number, (line, row) in enumerate(read_rows(file, skips)):
        try:
            samples = _row(row, line, number, folder)
        except (DataError, PictureError) as error:
            skips.add(line, str(error))
            continue
        for sample in samples:
            shown = sample.pictures
            group = groups.setdefault(shown[0].key, sample.group) if shown else sample.group
            yield replace(sample, group=group)


def _row(row: Any, line: int, group: int, folder: Path) -> list[Sample]:
    if not isinstance(row, dict):
        raise DataError(f"a row must be an object, not {type(row).__name__}")
    if "conversations" in row:
        return llava_samples(row, line, group, folder)
    if "messages" in row:
        return chat_samples(row, line, group, folder)
    raise DataError('a row needs "messages" (OpenAI) or "conversations" (LLaVA)')
