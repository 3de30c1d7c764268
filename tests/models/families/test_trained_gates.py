"""From questions to served gates, for every native family, by the public commands."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import dyvte
from dyvte import ExitOptions, SamplingParams
from dyvte.cli import main
from dyvte.exits.files import read_gates
from dyvte.training.collection import load_collected
from tests.e2e.in_process import connected
from tests.e2e.pictures import ask, png
from tests.models.families.everyone import FAMILIES
from tests.models.families.family import Family, picture, says

QUICK = ("--device", "cpu", "--dtype", "float32", "--max-tokens", "1", "--batch", "8")
ROWS = 24
PICTURE = png((50, 30))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def data(root: Path) -> Path:
    """Questions about pictures of three sizes, without answers: the model's own are the labels."""
    draw = random.Random(0)
    rows = []
    for index in range(ROWS):
        name = f"{index}.png"
        picture(30 + 10 * (index % 3), 40, seed=index).save(root / name)
        shown = {"type": "image_url", "image_url": {"url": name}}
        text = {"type": "text", "text": f"which {draw.randrange(1000)}?"}
        rows.append({"messages": [{"role": "user", "content": [shown, text]}]})
    path = root / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.anyio
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
async def test_gates_are_collected_trained_loaded_and_served(
    family: Family, tmp_path: Path
) -> None:
    folder = family.save(tmp_path / "model")
    collected, gates = str(tmp_path / "collected"), tmp_path / "gates"
    asked = ["--model", str(folder), "--data", str(data(tmp_path)), "--labels", "self"]
    assert main(["collect", *asked, "--out", collected, *QUICK]) == 0
    assert len(load_collected(collected)) == ROWS
    assert main(["train", "--data", collected, "--out", str(gates), "--epochs", "2"]) == 0

    bank, card = read_gates(gates)
    assert card is not None
    assert bank is not None
    assert card.model is not None
    model = dyvte.load(folder, gates=gates, device="cpu", dtype="float32")
    assert (card.model.family, card.model.name) == (model.adapter.family, folder.name)
    prompt = model.prompt([says("user", opened(PICTURE), "what is it?")])
    exits = ExitOptions(policy="gate", aggressiveness=0.5)
    offline = dyvte.generate(model, prompt, SamplingParams(max_tokens=4, temperature=0), exits)[0]
    assert offline.gate_logits is not None
    assert len(offline.gate_logits) >= 1

    account = await served(folder, gates)
    torch.testing.assert_close(
        torch.tensor(account["gate_logits"]), offline.gate_logits, atol=1e-4, rtol=0
    )
    assert account["exit_layer"] == offline.exit_layer
    assert account["visual_tokens"] == model.adapter.layout(prompt).visual_rows
    assert sorted(bank.layers) == list(card.layers)


async def served(folder: Path, gates: Path) -> dict[str, Any]:
    """The account of the same question over HTTP."""
    body: Mapping[str, Any] = {
        "model": "tiny",
        "messages": ask("what is it?", PICTURE),
        "max_tokens": 4,
        "temperature": 0,
        "dyvte": {"policy": "gate", "aggressiveness": 0.5, "report": "full"},
    }
    given = {"model": str(folder), "gates": str(gates), "served_model_name": "tiny"}
    async with connected(**given) as client:
        reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    account: dict[str, Any] = reply.json()["dyvte"]
    return account
