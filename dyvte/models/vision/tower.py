"""Vision towers and projectors of ``transformers`` through our CPU kernels, over their own weights.

``replace`` puts modules of the same names, parameters and results in the place of those that are
known here; families call them as before. float32 only.

Shapes: n pictures, R rows of each (patches, behind a class token if there is one), d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dyvte.kernels import ops
from dyvte.models.vision.encoder import EncoderLayer, LayerParts, norm_of
from dyvte.models.workspace import Workspace

LAYERS = {
    "CLIPVisionModel": "layers",
    "SiglipVisionModel": "layers",
    "InternVLVisionModel": "layer",
}
"""Towers that compute what is computed here, and what they call their encoder's layers."""
LAST_NORMS = {"SiglipVisionModel": "post_layernorm", "InternVLVisionModel": "layernorm"}
"""Between the last hidden state and ``last_hidden_state``."""
PROJECTORS = ("multi_modal_projector", "mm_projector")
ACTIVATIONS = {
    "QuickGELUActivation": "quick_gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
}
"""What ``transformers`` calls those of ``ops``."""

Form = Callable[[nn.Linear, str], nn.Module]
"""A linear layer and the activation behind it ("": none), as one module over panels."""


class Embedding:
    """``[n, C, H, W] → [n, R, d]``: patches times their weights, plus positions.

    One picture at a time, so that the positions are added in the product.
    """

    def __init__(self, tower: Any) -> None:
        given = tower.embeddings
        holder, name = _patches(tower)
        self.product = getattr(holder, name)
        own = hasattr(given, "patch_embedding")
        positions = given.position_embedding.weight if own else given.position_embeddings
        token = getattr(given, "class_embedding" if own else "cls_token", None)
        self.positions = positions.detach().flatten(0, -2)
        self.token = None if token is None else token.detach().flatten()
        self.patch = given.patch_size if not own else (given.patch_size,) * 2
        self.norm = norm_of(getattr(tower, "pre_layrnorm", nn.Identity()))

    def __call__(self, pixels: Tensor) -> Tensor:
        """See the class."""
        (rows, width), skipped = self.positions.shape, 0 if self.token is None else 1
        out = pixels.new_empty(len(pixels), rows, width)
        panels, bias = self.product.panels, self.product.bias
        for picture, own in zip(pixels, out, strict=True):
            ops.linear(
                self._unfolded(picture), panels, bias, self.positions[skipped:], own[skipped:]
            )
        if self.token is not None:
            out[:, 0] = self.token + self.positions[0]
        return out if self.norm is None else self.norm(out.flatten(0, 1)).view_as(out)

    def _unfolded(self, picture: Tensor) -> Tensor:
        """``[C, H, W]`` → patches ``[R, C · height · width]``; what is left at the edges is not
        seen."""
        height, width = self.patch
        down, along = picture.shape[1] // height, picture.shape[2] // width
        seen = picture[:, : down * height, : along * width]
        patches = seen.unflatten(2, (along, width)).unflatten(1, (down, height))
        unfolded: Tensor = patches.permute(1, 3, 0, 2, 4).reshape(down * along, -1)
        return unfolded


class FusedTower(nn.Module):
    """In a tower's place: the hidden states that are asked for, and nothing that nobody reads.

    Layers behind the deepest of them are not run (LLaVA reads the last but one), nor is a pooling
    head. FLOPs are told by the published convention all the same, which counts them: what a request
    saves is not to look larger because its tower got cheaper.
    """

    def __init__(self, tower: Any, space: Workspace) -> None:
        super().__init__()
        self.config = tower.config
        for name, child in tower.named_children():
            self.add_module(name, child)
        self._embed = Embedding(tower)
        self._run = [EncoderLayer(layer, space) for layer in _layers(tower)]
        self._last = LAST_NORMS.get(type(tower).__name__)

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | int | Sequence[int] = False,
        return_dict: bool = True,
    ) -> BaseModelOutputWithPooling:
        """``hidden_states`` has those asked for, by their numbers, and None elsewhere.

        ``last_hidden_state`` follows the last of them, where that was asked for.
        """
        assert return_dict, "results have names"
        count = len(self._run) + 1
        wanted = _wanted(output_hidden_states, count)
        states: list[Tensor | None] = [None] * count
        rows = self._embed(pixel_values)
        for level in range(max(wanted) + 1):
            if level:
                self._run[level - 1](rows.flatten(0, 1), len(rows))
            if level in wanted:
                states[level] = rows if level == max(wanted) else rows.clone()
        last = states[-1]
        if last is not None and self._last is not None:
            last = getattr(self, self._last)(last)
        return BaseModelOutputWithPooling(last_hidden_state=last, hidden_states=tuple(states))


def _wanted(asked: bool | int | Sequence[int], count: int) -> set[int]:
    """Numbers of hidden states, of ``count``; those of True are all, of False the last."""
    if isinstance(asked, bool):
        return {*range(count)} if asked else {count - 1}
    return {each % count for each in ([asked] if isinstance(asked, int) else asked)}


def replace(model: Any, form: Form) -> None:
    """Put what is made of each known tower and projector in its place. Mutates the model."""
    for parent, name, tower in [*_towers(model)]:
        for holder, own in ((parts.mlp, "fc1") for parts in map(LayerParts.of, _layers(tower))):
            _activated(holder, own, "activation_fn", form)
        for holder, own in _places(tower):
            linear = getattr(holder, own)
            if type(linear) in (nn.Linear, nn.Conv2d):
                setattr(holder, own, form(_as_linear(linear), ""))
        setattr(parent, name, FusedTower(tower, Workspace()))
    for projector in [*_projectors(model)]:
        for holder, name, behind in [*_linears(projector)]:
            if behind is None:
                setattr(holder, name, form(getattr(holder, name), ""))
            else:
                _activated(holder, name, behind, form)


def weights(model: Any) -> Iterator[Tensor]:
    """Of all that ``replace`` finds to be replaced."""
    for _, _, tower in _towers(model):
        yield from (getattr(holder, name).weight for holder, name in _places(tower))
    for projector in _projectors(model):
        yield from (getattr(holder, name).weight for holder, name, _ in _linears(projector))


def _towers(model: Any) -> Iterator[tuple[nn.Module, str, Any]]:
    """Towers that their model calls by this name, and that are computed here."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if name == "vision_tower" and type(child).__name__ in LAYERS and _is_known(child):
                yield parent, name, child


def _is_known(tower: Any) -> bool:
    """True if it is float32, with an activation and with embeddings that are known here."""
    parts = [LayerParts.of(layer) for layer in _layers(tower)]
    places = [getattr(holder, name) for holder, name in _places(tower)]
    return (
        all(type(each) in (nn.Linear, nn.Conv2d) for each in places)
        and all(each.dtype == torch.float32 for each in tower.parameters())
        and all(_activation(each.mlp.activation_fn) for each in parts)
        and getattr(tower.embeddings, "mask_token", None) is None
        and getattr(tower.embeddings, "position_embeddings", 0) is not None
    )


def _layers(tower: Any) -> Sequence[Any]:
    layers: Sequence[Any] = getattr(tower.encoder, LAYERS[type(tower).__name__])
    return layers


def _places(tower: Any) -> Iterator[tuple[nn.Module, str]]:
    """Where what is multiplied is held: patches, then layer by layer."""
    yield _patches(tower)
    for layer in _layers(tower):
        inside = {id(linear) for linear in LayerParts.of(layer).linears}
        for holder in layer.modules():
            yield from ((holder, n) for n, each in holder.named_children() if id(each) in inside)


def _patches(tower: Any) -> tuple[nn.Module, str]:
    given = tower.embeddings
    if hasattr(given, "patch_embedding"):
        return given, "patch_embedding"
    return given.patch_embeddings, "projection"


def _projectors(model: Any) -> Iterator[nn.Module]:
    """Those in float32 beside a tower."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if name in PROJECTORS and all(p.dtype == torch.float32 for p in child.parameters()):
                yield child


def _linears(projector: nn.Module) -> Iterator[tuple[nn.Module, str, str | None]]:
    """Where each linear layer is held, and the activation right behind it."""
    for holder in projector.modules():
        children = [*holder.named_children(), ("", None)]
        for (name, child), (behind, then) in pairwise(children):
            if type(child) is nn.Linear:
                yield holder, name, behind if _activation(then) else None


def _activation(module: Any) -> str | None:
    """What ``ops`` calls it; None for one that it has not."""
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return ACTIVATIONS.get(type(module).__name__)


def _activated(holder: Any, linear: str, activation: str, form: Form) -> None:
    """One module for a linear layer and the activation behind it, which does nothing from now."""
    found = _activation(getattr(holder, activation))
    assert found is not None, "asked for before"
    setattr(holder, linear, form(getattr(holder, linear), found))
    setattr(holder, activation, nn.Identity())


def _as_linear(module: Any) -> nn.Linear:
    """A convolution over patches that do not overlap is a product with each."""
    if isinstance(module, nn.Linear):
        return module
    weight = module.weight.detach().flatten(1)
    linear: Any = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), module.bias
    made: nn.Linear = linear
    return made
