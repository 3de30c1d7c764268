"""The files of a collection: a card, shards of samples, and an index that says it is whole.

``collection.json`` is written first and says what was asked; ``shards/00000.safetensors`` … each
hold the samples of one fixed stretch of the data; ``index.json`` comes last. A file appears under
its name whole or not at all (temporary name, fsync, rename), so a kill leaves complete shards
and at most one temporary file, and the next run goes on behind the last shard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dyvte.data import DataError, Skip
from dyvte.flops import DecoderShape

FORMAT, VERSION = "dyvte-collection", 1
CARD, INDEX, SHARDS = "collection.json", "index.json", "shards"
# One key only: safetensors writes several in an order that changes from run to run.
_META = "dyvte"


@dataclass(frozen=True, slots=True)
class Card:
    """What a collection is of. ``tensors`` are the names in every shard; ``settings`` are what
    a run that goes on must agree with."""

    shape: DecoderShape
    layers: tuple[int, ...]
    signal_names: tuple[str, ...]
    tensors: tuple[str, ...]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shard:
    """One stretch of the data: its samples, and the rows that were passed over in it."""

    path: Path
    ids: Sequence[str]
    kinds: Sequence[str]
    skipped: Sequence[Skip] = field(default_factory=tuple)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from the card: tuples are lists."""
    read: dict[str, Any] = json.loads(json.dumps(settings))
    return read


def write_card(folder: Path, card: Card) -> None:
    """Begin a collection. Raises DataError if the folder holds one that was asked otherwise."""
    text = _text({"format": FORMAT, "version": VERSION, **asdict(card)})
    path = folder / CARD
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder} holds other files; give an empty or a new folder")
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    before = read_card(folder, unfinished=True)
    for name, value in plain(card.settings).items():
        if before.settings.get(name) != value:
            raise DataError(
                f"{folder} was begun with {name} {before.settings.get(name)!r}, not {value!r}; "
                "give the same settings or another folder"
            )
    if path.read_text() != text:
        raise DataError(f"{folder} was begun by another version of dyvte; give another folder")
    (folder / SHARDS).mkdir(exist_ok=True)
    for leftover in (*folder.glob("*.tmp"), *(folder / SHARDS).glob("*.tmp")):
        leftover.unlink()


def shard_path(folder: Path, number: int) -> Path:
    """Where shard ``number`` is; it is complete if it exists."""
    return folder / SHARDS / f"{number:05d}.safetensors"


def write_shard(shard: Shard, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard whole: every tensor has one row a sample."""
    about = {
        "ids": list(shard.ids),
        "kinds": list(shard.kinds),
        "skipped": [asdict(skip) for skip in shard.skipped],
    }
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    meta = {_META: json.dumps(about, ensure_ascii=False, sort_keys=True)}
    write_whole(shard.path, save(contiguous, metadata=meta))


def write_index(folder: Path, shards: Sequence[Shard], skipped: Sequence[Skip]) -> None:
    """Say that the collection is whole. ``skipped`` are all rows passed over, by line."""
    index = {
        "samples": sum(len(shard.ids) for shard in shards),
        "shards": [{"file": shard.path.name, "samples": len(shard.ids)} for shard in shards],
        "skipped": [asdict(skip) for skip in sorted(skipped, key=lambda skip: skip.line)],
    }
    write_whole(folder / INDEX, _text(index).encode())


def read_card(folder: Path, unfinished: bool = False) -> Card:
    """Raises DataError if there is no collection here or (unless ``unfinished``) half of one."""
    try:
        data = json.loads((folder / CARD).read_text())
        if data.pop("format") != FORMAT or data.pop("version") != VERSION:
            raise ValueError("another format or version")
        data["shape"] = DecoderShape(**data["shape"])
        lists = {name: tuple(data[name]) for name in ("layers", "signal_names", "tensors")}
        card = Card(**{**data, **lists})
    except FileNotFoundError:
        raise DataError(
            f"{folder} holds no collection; make one with dyvte collect --out {folder}"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{folder / CARD} cannot be read ({error})") from error
    if not unfinished and not (folder / INDEX).exists():
        raise DataError(f"{folder} is unfinished; run the same dyvte collect again, it goes on")
    return card


def read_shard(path: Path) -> Shard:
    """What a shard says of its samples. Raises DataError."""
    try:
        with safe_open(path, framework="pt") as opened:
            about = json.loads(opened.metadata()[_META])
        skipped = tuple(Skip(**skip) for skip in about["skipped"])
        return Shard(path, tuple(about["ids"]), tuple(about["kinds"]), skipped)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def read_shards(folder: Path) -> Iterator[Shard]:
    """The shards that the index names, in order. Raises DataError."""
    try:
        index = json.loads((folder / INDEX).read_text())
        names = [str(entry["file"]) for entry in index["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / INDEX} cannot be read ({error})") from error
    for name in names:
        yield read_shard(folder / SHARDS / name)


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` is either as before or complete, also after a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
