"""The parts of a model as people speak of them, told by the names of its parameters.

Vision tower, projector (whatever lies between tower and decoder), decoder, LM head. The words are
those that ``transformers`` and the original layouts use; a parameter that none of them fits counts
as "other", so that the parts always sum up to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

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


@dataclass(frozen=True, slots=True)
class PartFacts:
    """A part as its config describes it; None where that says nothing.

    A model with several vision towers has one entry for each.
    """

    part: Part
    kind: str
    parameters: int
    layers: int | None = None
    width: int | None = None


def part_of(name: str) -> Part:
    """The part that a parameter belongs to."""
    words = set(name.split("."))
    return next((part for part, known in _WORDS.items() if known & words), "other")


def parameters_by_part(adapter: ModelAdapter) -> dict[Part, int]:
    """How many numbers each part has; a tied LM head has none of its own."""
    found: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for each in _parameters(adapter):
        found[each.part] += each.count
    return found


def parts_of(adapter: ModelAdapter) -> list[PartFacts]:
    """Towers, projector, decoder, head, in the order in which an image meets them."""
    counted = parameters_by_part(adapter)
    found: list[PartFacts] = []
    if isinstance(adapter, DecoderAdapter):
        found += [_tower(module) for module in _modules(adapter.model, "vision tower")]
        kinds = [type(module).__name__ for module in _modules(adapter.model, "projector")]
        inside = sum(each.parameters for each in found) - counted["vision tower"]
        if len(found) == 1 and inside:  # a tower that holds its projector
            found = [replace(found[0], parameters=counted["vision tower"])]
        kind = ", ".join(dict.fromkeys(kinds)) or "none"
        found.append(PartFacts("projector", kind, counted["projector"]))
        shape = adapter.decoder
        facts = (adapter.decoder_kind, counted["decoder"], shape.num_layers, shape.hidden_size)
        found.append(PartFacts("decoder", *facts))
        head = "linear" if counted["LM head"] else "tied to the embedding"
        found.append(PartFacts("LM head", head, counted["LM head"], width=shape.vocab_size))
        if counted["other"]:
            found.append(PartFacts("other", "", counted["other"]))
    return found


def _tower(module: nn.Module) -> PartFacts:
    config: Any = getattr(module, "config", None)
    kind = getattr(config, "model_type", None) or type(module).__name__
    layers, width = (
        next((int(getattr(config, name)) for name in names if getattr(config, name, None)), None)
        for names in (("num_hidden_layers", "depth"), ("embed_dim", "hidden_size"))
    )
    count = sum(parameter.numel() for parameter in module.parameters())
    return PartFacts("vision tower", str(kind), count, layers, width)


def _modules(model: Any, part: Part) -> Iterator[nn.Module]:
    """The outermost modules of a part; a list of towers is its towers."""
    seen: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in seen)
        if (
            not name
            or inside
            or part_of(name) != part
            or not any(True for _ in module.parameters())
        ):
            continue
        seen.append(name)
        yield from module if isinstance(module, nn.ModuleList) else (module,)


def origin_of(adapter: ModelAdapter, name: str) -> Origin | None:
    """Which model this is; None where there are no weights to tell it by, or only rounded ones."""
    if adapter.device.type == "meta" or not isinstance(adapter, DecoderAdapter):
        return None
    by_part: dict[Part, list[_Held]] = {}
    for each in _parameters(adapter):
        by_part.setdefault(each.part, []).append(each)
    if any(each.rounded for held in by_part.values() for each in held):
        return None
    drawn = [value for part in PARTS for value in _spread(by_part.get(part, []))]
    values = torch.stack(drawn).to("cpu", torch.bfloat16).view(torch.int16).tolist()
    return Origin(adapter.family, name, "".join(f"{value & 0xFFFF:04x}" for value in values))


@dataclass(frozen=True, slots=True)
class _Held:
    """A parameter, and how to read it: one that a kernel laid out for itself is laid back."""

    part: Part
    count: int
    rounded: bool
    read: Callable[[], Tensor]


def _parameters(adapter: ModelAdapter) -> Iterator[_Held]:
    if not isinstance(adapter, DecoderAdapter):
        return
    owners = dict(adapter.model.named_modules())
    for name, parameter in adapter.model.named_parameters():
        owner, own = owners[name.rpartition(".")[0]], name.rpartition(".")[2]
        count, rounded, read = parameter.numel(), parameter.dtype.itemsize < 2, parameter.detach
        if own == "weight" and hasattr(owner, "to_dense"):
            count, read = owner.in_features * owner.out_features, owner.to_dense
        elif parameter.is_mkldnn:
            read = parameter.to_dense
        yield _Held(part_of(name), count, rounded, read)


def _spread(parameters: list[_Held]) -> Iterator[Tensor]:
    """SAMPLES numbers at even distances over all parameters of a part, put in a row."""
    total = sum(each.count for each in parameters)
    places = [(2 * i + 1) * total // (2 * SAMPLES) for i in range(SAMPLES)] if total else []
    start = 0
    for each in parameters:
        inside = [at - start for at in places if start <= at < start + each.count]
        if inside:
            flat = each.read().reshape(-1)
            yield from (flat[at].to(torch.bfloat16) for at in inside)
        start += each.count
