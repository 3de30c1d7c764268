"""LLaVA over ``transformers``' own modules: CLIP tower, two-layer projector, Llama decoder.

One image is one placeholder and always the same number of rows. Source of the layout:
``transformers.LlavaForConditionalGeneration``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from dyvte.attention import StepContext
from dyvte.errors import ModelError, PromptError
from dyvte.exits.gate import GateBank
from dyvte.flops import DecoderShape, VisionShape
from dyvte.models.adapter import ModelAdapter
from dyvte.models.projection import last_query_and_keys
from dyvte.prompt import Prompt

DECODERS = ("llama", "mistral", "qwen2", "qwen3")
TOWERS = ("clip_vision_model",)


class LlavaAdapter(ModelAdapter):
    """Names the parts of a ``LlavaForConditionalGeneration`` loaded with our attention."""

    family = "llava"

    def __init__(self, model: LlavaForConditionalGeneration, gates: GateBank | None = None) -> None:
        self.model = model
        core = model.model
        text, vision = model.config.text_config, model.config.vision_config
        _check_parts(text, vision.model_type)
        self._layers = core.language_model.layers
        self._embedding = core.language_model.embed_tokens
        self._rotary = core.language_model.rotary_emb
        self._norm = core.language_model.norm
        self._tower = core.vision_tower
        self.dtype = model.dtype
        self.device = model.device
        # Our attention is full: inside a sliding window that is the same.
        window = getattr(text, "sliding_window", None)
        self.max_positions = min(int(text.max_position_embeddings), window or sys.maxsize)
        self.eos_token_ids = frozenset(i for i in _eos(model) if i < text.vocab_size)
        self.decoder = DecoderShape(
            num_layers=text.num_hidden_layers,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_heads=text.num_attention_heads,
            num_kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None)
            or text.hidden_size // text.num_attention_heads,
            vocab_size=text.vocab_size,
        )
        self._drops_cls = model.config.vision_feature_select_strategy == "default"
        patches = (vision.image_size // vision.patch_size) ** 2
        self.rows_per_image = patches + (0 if self._drops_cls else 1)
        levels = model.config.vision_feature_layer
        self._vision = VisionShape(
            num_layers=vision.num_hidden_layers,
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            patches=patches,
            rows=patches + 1,
            patch_inputs=vision.num_channels * vision.patch_size**2,
            projector_in=vision.hidden_size * (1 if isinstance(levels, int) else len(levels)),
            projector_hidden=text.hidden_size,
            projector_out=text.hidden_size,
            projector_rows=self.rows_per_image,
        )
        self._image_shape = (vision.num_channels, vision.image_size, vision.image_size)
        self.gates = gates
        if gates is not None:
            gates.check(self.decoder.hidden_size, self.decoder.num_layers)
            self.gates = gates.to(self.device)

    def visual_rows(self, prompt: Prompt) -> list[int]:
        """The same number for every image."""
        if prompt.images is None:
            return []
        pixels = _pixels(prompt.images)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != self._image_shape:
            raise PromptError(
                f"pixel_values has shape {list(pixels.shape)}, expected "
                f"[images, {', '.join(map(str, self._image_shape))}]"
            )
        return [self.rows_per_image] * pixels.shape[0]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        """One run of tower and projector over the images of all prompts."""
        pixels = [_pixels(each) for each in images]
        if not pixels:
            return []
        stacked = torch.cat(pixels).to(self.device, self.dtype)
        features = self.model.get_image_features(pixel_values=stacked).pooler_output
        rows = iter(features)
        return [[next(rows) for _ in range(each.shape[0])] for each in pixels]

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """The decoder's own table."""
        out: Tensor = self._embedding(token_ids)
        return out

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's own rotary embedding."""
        cos, sin = self._rotary(hidden[None], position_ids=positions[None])
        return cos, sin

    def run_layer(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], context: StepContext
    ) -> Tensor:
        """The decoder's own layer over a batch of one packed row."""
        out: Tensor = self._layers[layer](
            hidden[None], attention_mask=None, position_embeddings=rotary, packed=context
        )
        return out[0]

    def last_query_and_keys(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, float]:
        """Through the decoder's own norm and projections."""
        return last_query_and_keys(self._layers[layer], hidden, rotary)

    def head(self, hidden: Tensor) -> Tensor:
        """Norm over the asked rows only, then the head."""
        out: Tensor = self.model.lm_head(self._norm(hidden))
        return out

    def vision_flops(self, num_images: int) -> int:
        """Every encoder layer that ``transformers`` runs is counted."""
        return self._vision.total(num_images)

    def parameter_bytes(self) -> int:
        """Bytes of all weights as loaded."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())


def _pixels(images: Mapping[str, Any]) -> Tensor:
    if "pixel_values" not in images:
        raise PromptError("images need pixel_values as the family's image processor returns them")
    return torch.as_tensor(images["pixel_values"])


def _check_parts(text: Any, tower: str) -> None:
    """Refuse decoders and towers whose answers our rows would get wrong. Raises ModelError.

    Other decoders scale embeddings or logits outside their layers, other towers have no class
    token; attention other than over the full past (or a window, see ``max_positions``) and rotary
    embeddings that change with the longest row of a batch need more than packed rows.
    """
    for part, kind, known in (
        ("decoder", text.model_type, DECODERS),
        ("vision tower", tower, TOWERS),
    ):
        if kind not in known:
            raise ModelError(f"LLaVA with a {kind!r} {part} is not supported ({', '.join(known)})")
    odd = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if odd:
        raise ModelError(f"decoder layers of type {', '.join(sorted(odd))} are not supported")
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in ("dynamic", "longrope"):
        raise ModelError(f"rope_type {rope!r} changes with the longest row of a batch; unsupported")


def _eos(model: LlavaForConditionalGeneration) -> frozenset[int]:
    for config in (model.generation_config, model.config, model.config.text_config):
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    raise ModelError("the model's config names no eos_token_id; set one in config.json")
