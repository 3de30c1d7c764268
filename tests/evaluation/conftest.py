"""A data file of questions about tiny pictures, as `dyvte demo render` writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rows, two kinds; the last two are a conversation and a question without a picture."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for index in range(8):
        name = f"{index}.png"
        Image.new("RGB", (12, 12), (30 * index, 255 - 30 * index, 90)).save(folder / name)
        picture = {"type": "image_url", "image_url": {"url": name}}
        text = {"type": "text", "text": f"what is {index}?"}
        content = [text] if index == 7 else [picture, text]
        messages: list[dict[str, object]] = [{"role": "user", "content": content}]
        if index == 6:
            messages += [
                {"role": "assistant", "content": "six"},
                {"role": "user", "content": "sure?"},
            ]
        kind = "even" if index % 2 == 0 else "odd"
        rows.append({"id": f"r{index}", "messages": messages, "answer": "x", "kind": kind})
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
