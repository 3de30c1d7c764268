"""What the core needs of a model: its parts by name, and how images become rows.

An adapter wraps a ``transformers`` model; weights and layer code stay theirs. A family is one
file that fills in this class.

Shapes: T rows, d hidden size, V_i visual rows of image i, A rotary axes, K deepstack levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dyvte.attention import LayerContext
from dyvte.errors import PromptError
from dyvte.exits.gate import GateBank
from dyvte.flops import DecoderShape
from dyvte.packing import Part, Segment
from dyvte.prompt import IMAGE, Prompt, VisualSpan
from dyvte.transfer import moved, upload


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """An expanded prompt: ``token_ids`` has one entry per row (IMAGE on visual rows).

    ``positions [A, rows]`` (int64) are those of a family with several rotary axes; None where
    they count 0, 1, 2, … A generated token takes its row number plus ``delta`` on every axis.
    ``vision_flops`` is what tower and projector cost for this prompt's images.
    """

    token_ids: tuple[int, ...]
    spans: tuple[VisualSpan, ...]
    positions: Tensor | None = field(default=None, compare=False)
    delta: int = 0
    vision_flops: int = 0

    @property
    def rows(self) -> int:
        """Rows of the expanded prompt: what ``usage.prompt_tokens`` counts."""
        return len(self.token_ids)

    @property
    def visual_rows(self) -> int:
        """Rows that come from images."""
        return sum(len(span) for span in self.spans)

    @property
    def leaving(self) -> tuple[VisualSpan, ...]:
        """The spans as an exit empties them.

        The prompt's last row stays even where it is visual: the next token is predicted there.
        """
        if not self.spans or self.spans[-1].stop < self.rows:
            return self.spans
        *others, last = self.spans
        return (*others, VisualSpan(last.start, last.stop - 1)) if len(last) > 1 else (*others,)


class ModelAdapter(ABC):
    """A family's decoder, vision tower and projector behind the names that the core uses."""

    family: str
    decoder: DecoderShape
    gates: GateBank | None
    dtype: torch.dtype
    device: torch.device
    max_positions: int
    eos_token_ids: frozenset[int]

    @abstractmethod
    def visual_rows(self, images: Mapping[str, Any]) -> list[int]:
        """V_i of each image, computed from the processed images alone. Raises PromptError."""

    @abstractmethod
    def encode_images(self, images: Sequence[Mapping[str, Any]]) -> list[list[Tensor]]:
        """Rows of every image of every prompt, all prompts in one run.

        ``[V_i, d]``, or ``[V_i, (1 + K)·d]`` where K deepstack levels follow the embedding.
        """

    def split_images(self, images: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """A prompt's images in parts that the tower may see one by one, at different times.

        Each part is what ``encode_images`` and ``vision_flops`` take; ``join_images`` puts the
        parts' rows together. One part, unless a family knows that its tower looks at each alone.
        """
        return [images]

    def join_images(self, images: Mapping[str, Any], rows: Sequence[list[Tensor]]) -> list[Tensor]:
        """Rows of each image from those of the parts of ``split_images``, in order."""
        del images
        return [image for part in rows for image in part]

    @abstractmethod
    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Text ids ``[n]`` → ``[n, d]``."""

    @abstractmethod
    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin ``[1, T, head_dim]`` for positions ``[T]`` or ``[A, T]``."""

    @abstractmethod
    def run_layer(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], context: LayerContext
    ) -> Tensor:
        """One decoder layer over packed rows: ``[T, d]`` → ``[T, d]``."""

    @abstractmethod
    def last_query_and_keys(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, float]:
        """What a layer will compute: ``q [H, D]`` of the last row, ``k [n, K, D]``, the scale."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """Final norm and LM head: ``[S, d]`` → ``[S, V]``."""

    @abstractmethod
    def vision_flops(self, images: Mapping[str, Any]) -> int:
        """Tower and projector for the processed images of a prompt."""

    @abstractmethod
    def parameter_bytes(self) -> int:
        """Bytes of all weights as loaded."""

    def layout(self, prompt: Prompt) -> PromptLayout:
        """Expand each placeholder into its image's rows. Raises PromptError."""
        images = prompt.images
        rows = self.visual_rows(images) if images is not None else []
        if len(rows) != prompt.num_images:
            raise PromptError(
                f"the prompt has {prompt.num_images} image placeholders and {len(rows)} images"
            )
        ids: list[int] = []
        spans: list[VisualSpan] = []
        for token in prompt.token_ids:
            if token == IMAGE:
                count = rows[len(spans)]
                spans.append(VisualSpan(len(ids), len(ids) + count))
                ids.extend([IMAGE] * count)
            elif 0 <= token < self.decoder.vocab_size:
                ids.append(token)
            else:
                raise PromptError(
                    f"token id {token} is outside the vocabulary of {self.decoder.vocab_size}"
                )
        layout = PromptLayout(tuple(ids), tuple(spans))
        if images is None:
            return self.place(layout, {})
        check_finite(images, "pixel_values")
        return self.place(replace(layout, vision_flops=self.vision_flops(images)), images)

    def place(self, layout: PromptLayout, images: Mapping[str, Any]) -> PromptLayout:
        """Fill in ``positions`` and ``delta`` where rows do not simply count; here they do."""
        del images
        return layout

    def embed(self, layout: PromptLayout, image_rows: Sequence[Tensor]) -> Tensor:
        """Rows ``[T, d]`` of an expanded prompt: text embedded, image rows laid in."""
        ids = upload(layout.token_ids, torch.int64, self.device)
        hidden = self.embed_tokens(ids.clamp(min=0))
        width = hidden.shape[1]
        for span, rows in zip(layout.spans, image_rows, strict=True):
            if rows.shape[0] != len(span):
                raise PromptError(
                    f"an image gave {rows.shape[0]} rows where {len(span)} were expected"
                )
            hidden[span.start : span.stop] = rows[:, :width].to(hidden.dtype)
        return hidden

    def deepstack(self, layout: PromptLayout, image_rows: Sequence[Tensor]) -> Tensor | None:
        """``[T, K, d]`` to add to the rows after layers 0..K-1; None where nothing is added."""
        del layout, image_rows
        return None

    def part(
        self,
        seq: int,
        layout: PromptLayout,
        image_rows: Sequence[Tensor],
        generated: Sequence[int] = (),
    ) -> Part:
        """All rows of a prompt, and of what was generated behind it, as a step takes them."""
        hidden = self.embed(layout, image_rows)
        if generated:
            ids = upload(generated, torch.int64, self.device)
            hidden = torch.cat([hidden, self.embed_tokens(ids)])
        segment = Segment(seq, len(hidden), layout.leaving, prefill=True)
        positions = self.positions(layout, 0, len(hidden))
        return Part(segment, hidden, positions, self.deepstack(layout, image_rows))

    def rest(
        self, seq: int, layout: PromptLayout, start: int, generated: Sequence[int] = ()
    ) -> Part:
        """The rows from ``start`` on, all of them text: the images before are cached.

        ``start`` may be a generated token's.
        """
        ids = [*layout.token_ids, *generated][start:]
        hidden = self.embed_tokens(upload(ids, torch.int64, self.device))
        segment = Segment(seq, len(ids), prefill=True, cached=True)
        return Part(segment, hidden, self.positions(layout, start, start + len(ids)))

    def positions(self, layout: PromptLayout, start: int, stop: int) -> Tensor:
        """Positions ``[n]`` or ``[A, n]`` of rows ``start..stop-1``.

        Rows beyond the prompt are generated tokens.
        """
        count = torch.arange(start, stop, dtype=torch.int64, device=self.device)
        if layout.positions is None:
            return count
        prompt = moved(layout.positions[:, start:stop], self.device)
        more = count[prompt.shape[1] :] + layout.delta
        return torch.cat([prompt, more.expand(len(prompt), -1)], dim=-1)


def processed(images: Mapping[str, Any], key: str, *shape: int) -> Tensor:
    """``images[key]``, a tensor ``[n, *shape]`` (-1: any size). Raises PromptError."""
    found = as_tensor(images, key)
    fits = found.ndim == len(shape) + 1 and all(
        want in (-1, have) for want, have in zip(shape, found.shape[1:], strict=True)
    )
    if not fits:
        sizes = ", ".join("*" if size < 0 else str(size) for size in shape)
        raise PromptError(f"{key} has shape {list(found.shape)}, expected [images, {sizes}]")
    return found


def counted(images: Mapping[str, Any], key: str) -> list[int]:
    """``images[key]``, integers of at least 1, as a flat list. Raises PromptError."""
    found = as_tensor(images, key)
    if found.dtype is torch.bool or (found.is_floating_point() and found.numel()):
        raise PromptError(f"{key} holds {found.dtype}, expected integers")
    counts = [int(each) for each in found.flatten().tolist()]
    if min(counts, default=1) < 1:
        raise PromptError(f"{key} {counts} do not count images: each must be at least 1")
    return counts


def as_tensor(images: Mapping[str, Any], key: str) -> Tensor:
    """``images[key]`` as a tensor of real numbers. Raises PromptError."""
    if not isinstance(images, Mapping) or key not in images:
        raise PromptError(f"images need {key} as the family's image processor returns them")
    given = images[key]
    try:
        # A list of tensors is what processors return where they are not asked for one.
        listed = isinstance(given, (list, tuple)) and given and isinstance(given[0], Tensor)
        found = torch.stack(list(given)) if listed else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PromptError(f"{key} is no tensor nor what one is made of: {first}") from error
    if found.is_complex() or (found.dtype is torch.bool):
        raise PromptError(f"{key} holds {found.dtype}, expected real numbers")
    return found


def check_finite(images: Mapping[str, Any], key: str) -> None:
    """Raise PromptError for NaN or infinity. It reads every number, so ``layout`` asks it alone."""
    found = as_tensor(images, key)
    if found.is_floating_point() and not found.is_meta and not found.isfinite().all():
        raise PromptError(f"{key} holds values that are not finite")
