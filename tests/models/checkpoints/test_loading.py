"""Loading holds each weight once, and looks at names and shapes before it reads one."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import dyvte
from dyvte import ModelError
from dyvte.models.decoder import DecoderAdapter
from dyvte.models.originals import eagle, internvl, llava, vila

GOLDEN = Path(__file__).parents[2] / "golden"
ORIGINALS: dict[str, tuple[ModuleType, Path]] = {
    "llava": (llava, GOLDEN / "llava-original/checkpoint"),
    "internvl": (internvl, GOLDEN / "internvl-original/internlm2-ln/checkpoint"),
    "vila": (vila, GOLDEN / "vila-original/checkpoint"),
    "eagle": (eagle, GOLDEN / "eagle-original/checkpoint"),
}
Watched = list[weakref.ReferenceType[Tensor]]


@pytest.fixture(params=ORIGINALS)
def watched(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Watched, list[int]]:
    """A folder, what its reader was handed, and how many of those lived as each next one came."""
    reader, folder = ORIGINALS[request.param]
    given: Watched = []
    living: list[int] = []
    read = reader.tensors

    def counted(*arguments: Any) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in read(*arguments):
            copy = tensor.to(torch.float32, copy=True)
            del tensor
            living.append(sum(each() is not None for each in given))
            given.append(weakref.ref(copy))
            yield name, copy
            del copy

    monkeypatch.setattr(reader, "tensors", counted)
    return folder, given, living


def test_a_weight_is_cast_as_it_is_read(watched: tuple[Path, Watched, list[int]]) -> None:
    """All weights as stored and all as cast together would be two models in memory."""
    folder, given, living = watched
    dyvte.load(folder, device="cpu", dtype="bfloat16")
    assert len(given) > 50
    assert max(living) <= 2


def test_nobody_else_holds_a_weight_when_the_model_moves(
    watched: tuple[Path, Watched, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the CPU keeps all of what goes to a GPU."""
    folder, given, _ = watched
    held: list[int] = []
    make = DecoderAdapter.__init__

    def made(self: Any, *arguments: Any) -> None:
        if given:  # else it is the one without weights, which looks at the settings
            held.append(sum(each() is not None for each in given))
        make(self, *arguments)

    monkeypatch.setattr(DecoderAdapter, "__init__", made)
    dyvte.load(folder, device="cpu", dtype="float32")
    assert held == [0]


WIDER: dict[str, tuple[str, str]] = {  # original: its decoder's config, a tensor that cannot fit
    "llava": ("config.json", "model.layers.0.mlp"),
    "internvl": ("config.json", "language_model.model.layers.0.feed_forward"),
    "vila": ("llm/config.json", "model.layers.0.mlp"),
    "eagle": ("config.json", "model.layers.0.mlp"),
}


@pytest.mark.parametrize("name", WIDER)
def test_a_misshapen_tensor_is_named_before_any_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, source = ORIGINALS[name]
    file, tensor = WIDER[name]
    folder = shutil.copytree(source, tmp_path / "model")
    config = json.loads((folder / file).read_text())
    config.get("llm_config", config)["intermediate_size"] = 47
    (folder / file).write_text(json.dumps(config))

    def never(*_: Any) -> Iterator[tuple[str, Tensor]]:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(reader, "tensors", never)
    with pytest.raises(ModelError) as caught:
        dyvte.load(folder, device="cpu", dtype="float32")
    message = str(caught.value)
    assert tensor in message
    assert "47" in message
    assert "\n" not in message


def test_a_missing_tensor_is_named_with_its_shape(tmp_path: Path) -> None:
    folder = shutil.copytree(ORIGINALS["llava"][1], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    layers, width = config["num_hidden_layers"], config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers + 1}))
    named = rf"layers\.{layers}\.input_layernorm\.weight, by config\.json \[{width}\] and 8 more"
    with pytest.raises(ModelError, match=named):
        dyvte.load(folder, device="cpu", dtype="float32")
