"""EAGLE put together: towers side by side, a two-layer projector, a Llama decoder.

Source of the layout: EAGLE (arXiv 2408.15998), channel concatenation in the order in which
``mm_vision_tower`` names the towers.

Shapes: B images, d the decoder's hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedConfig, PreTrainedModel

from dyvte.errors import ModelError
from dyvte.models.families.eagle.clip import ClipTower
from dyvte.models.families.eagle.convnext import ConvNextTower
from dyvte.models.families.eagle.eva import EvaTower
from dyvte.models.families.eagle.pix2struct import Pix2StructTower
from dyvte.models.families.eagle.sam import SamTower
from dyvte.models.families.eagle.tower import ROWS, Tower

TOWERS: dict[str, type[Tower]] = {
    tower.name: tower for tower in (ClipTower, ConvNextTower, SamTower, EvaTower, Pix2StructTower)
}
PEAK_BYTES = 2 * 1024**3
"""Images are encoded together as long as no tensor on the way grows beyond this."""


def tower_class(name: str) -> type[Tower]:
    """Raises ModelError for a tower that EAGLE's own code does not name."""
    if name not in TOWERS:
        known = ", ".join(TOWERS)
        raise ModelError(f"mm_vision_tower has {name!r}, which is not supported ({known} are)")
    return TOWERS[name]


class EagleConfig(PreTrainedConfig):  # type: ignore[misc]
    """The decoder, and each tower's name and what its ``configured`` takes, in channel order."""

    model_type = "eagle"
    sub_configs_defaults = {"text_config": LlamaConfig}  # noqa: RUF012  (as transformers does)

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    towers: list[tuple[str, dict[str, Any]]] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = LlamaConfig(**(self.text_config or {}))
        super().__post_init__(**kwargs)


class EagleForCausalLM(PreTrainedModel):  # type: ignore[misc]
    """Parts by name; the decoder's layers are run by the adapter."""

    config_class = EagleConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: EagleConfig) -> None:
        super().__init__(config)
        text = config.text_config
        assert isinstance(text, LlamaConfig)
        self.model = LlamaModel(text)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.vision_towers = nn.ModuleList(
            tower_class(name)(tower_class(name).configured(**sizes))
            for name, sizes in config.towers or ()
        )
        self.mm_projector = nn.Sequential(
            nn.Linear(sum(tower.width for tower in self.towers), text.hidden_size),
            nn.GELU(),
            nn.Linear(text.hidden_size, text.hidden_size),
        )
        self.post_init()

    @property
    def towers(self) -> list[Tower]:
        """The towers in the order of their channels."""
        return [tower for tower in self.vision_towers if isinstance(tower, Tower)]

    def see(self, pixels: Tensor) -> Tensor:
        """``[B, 3, SIDE, SIDE]`` (float32) → ``[B, ROWS, channels of all towers]``."""
        return torch.cat([tower(pixels) for tower in self.towers], dim=-1)

    def image_rows(self, pixels: Tensor) -> Tensor:
        """``[B, 3, SIDE, SIDE]`` → ``[B, ROWS, d]``, as many at once as PEAK_BYTES allows."""
        peak = max(tower.peak for tower in self.towers) * self.dtype.itemsize
        at_once = max(1, PEAK_BYTES // peak)
        return torch.cat([self.mm_projector(self.see(few)) for few in pixels.split(at_once)])

    def image_flops(self) -> int:
        """Towers and projector over one image."""
        weights = sum(
            weight.numel() for weight in self.mm_projector.parameters() if weight.ndim > 1
        )
        return sum(tower.flops() for tower in self.towers) + 2 * ROWS * weights


def native_name(name: str, towers: Sequence[str]) -> str | None:
    """Where a tensor of the original checkpoint lies here; None for one that is not used.

    ``towers`` are the names of ``mm_vision_tower``. Raises ModelError for an unknown tensor.
    """
    inside = name.removeprefix("model.vision_tower.vision_towers.")
    if inside != name:
        index, _, rest = inside.partition(".vision_tower.")
        if index.isdecimal() and int(index) < len(towers):
            native = tower_class(towers[int(index)]).native_name(rest)
            return None if native is None else f"vision_towers.{index}.{native}"
    elif name.startswith("model.mm_projector."):
        return name.removeprefix("model.")
    elif name.endswith(".rotary_emb.inv_freq"):
        return None
    elif name.startswith(("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")):
        return name
    raise ModelError(f"unknown tensor {name!r} in an EAGLE checkpoint")
