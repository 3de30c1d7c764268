"""The vision towers that LLaVA's families carry: which there are, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dyvte.errors import ModelError
from dyvte.flops import VisionShape

CLASS_TOKENS = {"clip_vision_model": 1, "internvl_vision": 1, "siglip_vision_model": 0}


def side_of(size: int | Sequence[int]) -> int:
    """Of a square that a config gives as one number (CLIP) or as two (InternViT)."""
    return size if isinstance(size, int) else size[0]


def patches_of(vision: Any) -> int:
    """Patches of one picture, which are a square."""
    return (side_of(vision.image_size) // side_of(vision.patch_size)) ** 2


def check_tower(family: str, config: Any, known: tuple[str, ...]) -> None:
    """Refuse towers that are not ``known``, and a selection that does not fit. Raises ModelError.

    Rows are laid out as a square of patches: a class token must be dropped (strategy "default"),
    and where there is none nothing may be ("full").
    """
    kind, strategy = config.vision_config.model_type, config.vision_feature_select_strategy
    if kind not in known:
        raise ModelError(f"{family}: vision tower {kind!r} is not supported ({', '.join(known)})")
    fitting = "default" if CLASS_TOKENS[kind] else "full"
    if strategy != fitting:
        raise ModelError(
            f"{family}: vision_feature_select_strategy {strategy!r} does not fit {kind} "
            f"(its rows make a square with {fitting!r})"
        )


def check_levels(family: str, levels: int | Sequence[int], layers: int) -> None:
    """Refuse a selected hidden state that a tower of ``layers`` has not. Raises ModelError."""
    for level in [levels] if isinstance(levels, int) else levels:
        if not -layers - 1 <= level <= layers:
            raise ModelError(
                f"{family}: the vision tower has {layers} layers, and layer {level} of it is "
                f"selected ({-layers - 1} to {layers} are there)"
            )


def vision_shape(config: Any, projector_rows: int) -> VisionShape:
    """The numbers of a tower and its two-layer projector that decide their cost."""
    text, vision = config.text_config, config.vision_config
    patches = patches_of(vision)
    levels = config.vision_feature_layer
    return VisionShape(
        num_layers=vision.num_hidden_layers,
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        patches=patches,
        rows=patches + CLASS_TOKENS[vision.model_type],
        patch_inputs=vision.num_channels * side_of(vision.patch_size) ** 2,
        projector_in=vision.hidden_size * (1 if isinstance(levels, int) else len(levels)),
        projector_hidden=text.hidden_size,
        projector_out=text.hidden_size,
        projector_rows=projector_rows,
    )


def pooling_head(config: Any) -> int:
    """What a SigLIP tower's pooling costs for one image; nobody reads it, but it runs.

    One query attends all rows, then an MLP over that one row.
    """
    vision = config.vision_config
    if vision.model_type != "siglip_vision_model" or not vision.vision_use_head:
        return 0
    d, m = int(vision.hidden_size), int(vision.intermediate_size)
    rows = patches_of(vision)
    return 2 * d * d * (2 + 2 * rows) + 4 * rows * d + 4 * d * m
