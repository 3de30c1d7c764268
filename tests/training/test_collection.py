"""The files of a collection: what is written is read, and half of one is no collection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dyvte.data import DataError, Skip
from dyvte.flops import DecoderShape
from dyvte.training.collection import load_collected
from dyvte.training.shards import (
    Card,
    Shard,
    shard_path,
    write_card,
    write_index,
    write_shard,
)

SHAPE = DecoderShape(4, 6, 8, 2, 2, 3, 50)
NAMES = (
    *("status", "kl", "signals", "consistent", "groups", "conversation"),
    *("text_rows", "visual_rows", "answer_tokens", "vision_flops"),
)
CARD = Card(SHAPE, (1, 3), ("mass", "pull"), NAMES, {"model": "x", "layers": (1, 3)})


def rows(count: int, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    whole = ("groups", "text_rows", "visual_rows", "answer_tokens", "vision_flops")
    return {
        "status": torch.randn(count, 2, 12, generator=draw),
        "kl": torch.rand(count, 2, generator=draw),
        "signals": torch.rand(count, 2, 2, generator=draw),
        "consistent": torch.rand(count, 2, generator=draw) > 0.5,
        "conversation": torch.zeros(count, dtype=torch.bool),
        **{name: torch.randint(9, (count,), generator=draw) for name in whole},
    }


def write(folder: Path, *counts: int) -> list[Shard]:
    write_card(folder, CARD)
    shards = []
    for number, count in enumerate(counts):
        ids = [f"{number}-{row}" for row in range(count)]
        shards.append(Shard(shard_path(folder, number), ids, ["k"] * count, [Skip(number, "bad")]))
        write_shard(shards[-1], rows(count, number))
    return shards


def test_what_was_written_is_read(tmp_path: Path) -> None:
    shards = write(tmp_path, 3, 0, 2)
    write_index(tmp_path, shards, [])
    read = load_collected(tmp_path)
    assert len(read) == 5
    assert read.ids == ("0-0", "0-1", "0-2", "2-0", "2-1")
    both = [rows(3, 0), rows(2, 2)]
    assert torch.equal(read.status, torch.cat([part["status"] for part in both]))
    assert torch.equal(read.status_of(3), read.status[:, 1])
    assert read.consistent is not None
    assert torch.equal(read.consistent, torch.cat([part["consistent"] for part in both]))
    assert (read.paper, read.loss_full) == (None, None)
    assert (read.layers, read.num_layers, read.shape) == ((1, 3), 4, SHAPE)
    assert read.label("self") is read.consistent


def test_half_of_a_collection_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no collection"):
        load_collected(tmp_path / "none")
    write(tmp_path, 1)
    with pytest.raises(DataError, match="is unfinished"):
        load_collected(tmp_path)
    (tmp_path / "collection.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        load_collected(tmp_path)


def test_going_on_with_other_settings_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write_card(tmp_path, CARD)
    with pytest.raises(DataError, match="begun with model 'x', not 'y'"):
        write_card(tmp_path, replace(CARD, settings={"model": "y", "layers": (1, 3)}))


def test_other_files_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        write_card(tmp_path, CARD)


def test_what_a_kill_left_behind_is_swept(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "shards" / "00001.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "index.json.tmp").write_bytes(b"half")
    write_card(tmp_path, CARD)
    assert list(tmp_path.rglob("*.tmp")) == []


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, 2)[0].path.read_bytes() for name in "ab")
    assert one == two
