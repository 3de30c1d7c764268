"""What a model is and what it will cost, found out from a loaded or merely built one.

The facts of `dyvte check`, as plain values that are shown as tables or written as JSON. Bytes,
FLOPs and counts are exact unless a name says ``estimate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dyvte.errors import ModelError, PromptError
from dyvte.kernels import build
from dyvte.model import Model
from dyvte.models import registry
from dyvte.models.adapter import ModelAdapter
from dyvte.models.checkpoints.opened import read_config
from dyvte.models.decoder import DecoderAdapter
from dyvte.models.linear import PanelLinear, bytes_to_hold
from dyvte.models.parts import PartFacts, parts_of
from dyvte.models.vision.assumed import assumed_processor
from dyvte.models.vision.images import ProcessImages
from dyvte.sizing import (
    Memory,
    RequestCost,
    RequestSize,
    Serving,
    depths,
    memory,
    request_cost,
    state_bytes,
)

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """``loaded`` is False where no weight was read; ``context`` is in rows.

    ``kernels`` is the instruction set of the C++ kernels that compute its layers, None where torch
    does. ``weight_bytes`` are exact where weights were read; else they follow from the configs.
    """

    name: str
    family: str
    layout: str
    loaded: bool
    dtype: str
    device: str
    kernels: str | None
    context: int
    heads: int
    kv_heads: int
    head_dim: int
    weight_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """A picture of width × height: rows in the prompt, and what tower and projector cost."""

    width: int
    height: int
    visual_tokens: int
    vision_flops: int


@dataclass(frozen=True, slots=True)
class GateFacts:
    """``flops`` is what asking every gate once costs; ``made_for`` is None where no card says."""

    layers: tuple[int, ...]
    parameters: int
    flops: int
    made_for: str | None
    trained_on: str
    policies: tuple[str, ...]
    calibrated: tuple[str, ...]
    presets: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that `dyvte check` tells. ``requests`` and ``memory`` begin with no exit.

    ``images_assumed`` is True where the folder has no settings of an image processor.
    """

    model: ModelFacts
    parts: list[PartFacts]
    images: list[ImageFacts]
    images_assumed: bool
    gates: GateFacts
    request: RequestSize
    requests: list[RequestCost]
    serving: Serving
    memory_estimate: list[Memory]
    prefix_state_bytes: int


def inspect(
    model: Model,
    sizes: Sequence[Size],
    text: int,
    generated: int,
    serving: Serving,
    on_cpu: bool = False,
) -> Inspection:
    """Look at ``model``; the request has one picture of ``sizes[0]``. Raises ModelError.

    ``on_cpu``: a model without weights is sized as this machine's processor would hold them.
    """
    process, assumed = _processor(model)
    images = [_image(model, process, size) for size in sizes]
    shape, first = model.adapter.decoder, images[0]
    request = RequestSize(first.visual_tokens, text, generated, first.vision_flops)
    exits = [None, *depths(shape.num_layers).values()]
    facts = _model(model, on_cpu)
    weights = facts.weight_bytes + _gate_bytes(model)
    return Inspection(
        model=facts,
        parts=parts_of(model.adapter),
        images=images,
        images_assumed=assumed,
        gates=_gates(model),
        request=request,
        requests=[request_cost(shape, request, layer, serving.itemsize) for layer in exits],
        serving=serving,
        memory_estimate=[memory(shape, request, serving, weights, layer) for layer in exits],
        prefix_state_bytes=state_bytes(shape, request, serving.itemsize),
    )


def _model(model: Model, on_cpu: bool) -> ModelFacts:
    adapter, shape = model.adapter, model.adapter.decoder
    folder, loaded = registry.find(model.name, weights=False), adapter.device.type != "meta"
    held = adapter.parameter_bytes()
    if on_cpu and not loaded:
        held = bytes_to_hold(adapter, registry.checkpoint_dtype(folder))
    return ModelFacts(
        name=Path(model.name).name or Path(model.name).resolve().name,
        family=adapter.family,
        layout=registry.layout_of(read_config(folder)),
        loaded=loaded,
        dtype=str(adapter.dtype).removeprefix("torch."),
        device=str(adapter.device),
        kernels=_kernels(adapter),
        context=adapter.max_positions,
        heads=shape.num_heads,
        kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        weight_bytes=held,
        notes=model.notes,
    )


def _kernels(adapter: ModelAdapter) -> str | None:
    if not isinstance(adapter, DecoderAdapter):
        return None
    used = adapter.fused or any(isinstance(each, PanelLinear) for each in adapter.model.modules())
    return build.instruction_set() if used else None


def _processor(model: Model) -> tuple[ProcessImages, bool]:
    if model.process_images is not None:
        return model.process_images, False
    assumed = assumed_processor(model.adapter)
    if assumed is None:
        raise ModelError(
            f"{model.name}: how pictures become visual tokens is not said; the folder needs "
            "preprocessor_config.json"
        )
    return assumed, True


def _image(model: Model, process: ProcessImages, size: Size) -> ImageFacts:
    """Through the image processor itself. With weights the tower must give as many rows."""
    try:
        images: dict[str, Any] = process([Image.new("RGB", size)])
        [rows] = model.adapter.visual_rows(images)
        cost = model.adapter.vision_flops(images)
    except PromptError as error:
        raise ModelError(f"a picture of {size[0]}x{size[1]}: {error}") from error
    if model.adapter.device.type != "meta":
        [[given]] = model.adapter.encode_images([images])
        if len(given) != rows:
            raise ModelError(
                f"{model.name}: a picture of {size[0]}x{size[1]} is announced as {rows} rows and "
                f"the vision tower gives {len(given)}; is preprocessor_config.json this model's?"
            )
    return ImageFacts(*size, rows, cost)


def _gates(model: Model) -> GateFacts:
    bank, card, offers = model.gates, model.gate_card, model.offers
    curves = offers.calibration.curves if offers.calibration else {}
    return GateFacts(
        layers=tuple(sorted(bank.layers)) if bank else (),
        parameters=bank.parameters if bank else 0,
        flops=sum(map(bank.flops, bank.layers)) if bank else 0,
        made_for=str(card.model) if card and card.model else None,
        trained_on=card.trained_on if card else "",
        policies=model.grants.policies,
        calibrated=tuple(policy for policy in curves if offers.calibrated(policy)),
        presets=tuple(offers.presets),
        note=offers.note,
    )


def _gate_bytes(model: Model) -> int:
    bank = model.gates
    tensors = (w for ws in (bank.w1, bank.w2, bank.bias) for w in ws.values()) if bank else ()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
