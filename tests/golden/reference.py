"""What the goldens of several layouts share: an exit's dense oracle, and an answer over HTTP."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import dyvte
from dyvte import Prompt, SamplingParams
from dyvte.prompt import IMAGE
from tests.e2e.in_process import connected
from tests.e2e.pictures import ask

FEATURES, LOGITS, PIXELS = 5e-5, 2e-4, 1e-5
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, return_logits=True)


def picture(path: Path) -> Image.Image:
    """A file's picture, read whole."""
    with Image.open(path) as opened:
        return opened.copy()


def collapsed(ids: Sequence[int], image_id: int) -> list[int]:
    """Each run of ``image_id`` as the one IMAGE that it stands for."""
    before = [None, *ids]
    return [
        IMAGE if token == image_id else token
        for last, token in zip(before, ids, strict=False)
        if token != image_id or last != image_id
    ]


@torch.inference_mode()
def dense_logits(
    model: dyvte.Model,
    prompt: Prompt,
    decoder: Any,
    head: Any,
    more: Sequence[int] = (),
    exit_layer: int | None = None,
) -> Tensor:
    """``[1 + len(more), vocab]``: the stock decoder in eager attention, without cache or packing.

    Behind ``exit_layer`` no row sees a visual key.
    """
    adapter = model.adapter
    layout = adapter.layout(prompt)
    [rows] = adapter.encode_images([prompt.images]) if prompt.images is not None else [[]]
    hidden = adapter.embed(layout, rows)
    if more:
        hidden = torch.cat([hidden, adapter.embed_tokens(torch.tensor(list(more)))])
    visual = torch.tensor([token == IMAGE for token in layout.token_ids] + [False] * len(more))
    stock = copy.deepcopy(decoder)
    stock.set_attn_implementation("eager")
    for layer in stock.layers[exit_layer + 1 :] if exit_layer is not None else []:
        layer.register_forward_pre_hook(_without(visual), with_kwargs=True)
    out = stock(inputs_embeds=hidden[None], use_cache=False).last_hidden_state[0]
    logits: Tensor = head(out[-1 - len(more) :])
    return logits


def _without(visual: Tensor) -> Callable[..., Any]:
    count = len(visual)
    seen = torch.ones(count, count, dtype=torch.bool).tril() & ~visual
    seen |= torch.eye(count, dtype=torch.bool)  # else a visual row that begins the prompt is NaN
    mask = torch.zeros(1, 1, count, count).masked_fill(~seen, torch.finfo(torch.float32).min)

    def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": mask}

    return hook


async def answer_over_http(folder: Path, question: str, *pictures: bytes) -> dict[str, Any]:
    """The reply of an app with ``folder`` as its model: twelve greedy tokens, no exit."""
    body = {
        "model": "m",
        "messages": ask(question, *pictures),
        "max_tokens": 12,
        "temperature": 0,
        "ignore_eos": True,
        "dyvte": {"policy": "off"},
    }
    async with connected(model=str(folder), served_model_name="m") as client:
        reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found
