"""The parts of a model as people speak of them, told by the names of its parameters.

Vision tower, projector (whatever lies between tower and decoder), decoder, LM head. The words are
those that ``transformers`` and the original layouts use; a parameter that none of them fits counts
as "other", so that the parts always sum up to the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from dyvte.exits.origin import Origin
from dyvte.models.adapter import ModelAdapter
from dyvte.models.decoder import DecoderAdapter

Part = Literal["vision tower", "projector", "decoder", "LM head", "other"]
PARTS: tuple[Part, ...] = get_args(Part)

# The first whose word stands in the name: a tower may hold its projector ("visual.merger").
_WORDS: dict[Part, frozenset[str]] = {
    "projector": frozenset(
        "multi_modal_projector mm_projector projector mlp1 merger deepstack_merger_list "
        "image_newline".split()
    ),
    "vision tower": frozenset(("vision_tower", "vision_towers", "vision_model", "visual")),
    "LM head": frozenset(("lm_head",)),
    "decoder": frozenset(("language_model", "llm", "layers", "embed_tokens", "norm")),
}
SAMPLES = 24  # of each part


def part_of(name: str) -> Part:
    """The part that a parameter belongs to."""
    words = set(name.split("."))
    return next((part for part, known in _WORDS.items() if known & words), "other")


def parameters_by_part(adapter: ModelAdapter) -> dict[Part, int]:
    """How many numbers each part has; a tied LM head has none of its own."""
    found: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for part, parameter in _parameters(adapter):
        found[part] += parameter.numel()
    return found


def origin_of(adapter: ModelAdapter, name: str) -> Origin | None:
    """Which model this is; None where there are no weights to tell it by."""
    if adapter.device.type == "meta" or not isinstance(adapter, DecoderAdapter):
        return None
    by_part: dict[Part, list[Tensor]] = {}
    for part, parameter in _parameters(adapter):
        by_part.setdefault(part, []).append(parameter.detach())
    drawn = [value for part in PARTS for value in _spread(by_part.get(part, []))]
    values = torch.stack(drawn).to("cpu", torch.bfloat16).view(torch.int16).tolist()
    return Origin(adapter.family, name, "".join(f"{value & 0xFFFF:04x}" for value in values))


def _parameters(adapter: ModelAdapter) -> Iterator[tuple[Part, Tensor]]:
    if isinstance(adapter, DecoderAdapter):
        for name, parameter in adapter.model.named_parameters():
            yield part_of(name), parameter


def _spread(parameters: list[Tensor]) -> Iterator[Tensor]:
    """SAMPLES numbers at even distances over all parameters of a part, put in a row."""
    total = sum(parameter.numel() for parameter in parameters)
    places = [(2 * i + 1) * total // (2 * SAMPLES) for i in range(SAMPLES)] if total else []
    start = 0
    for parameter in parameters:
        inside = [at - start for at in places if start <= at < start + parameter.numel()]
        flat = parameter.reshape(-1)
        yield from (flat[at].to(torch.bfloat16) for at in inside)
        start += parameter.numel()
