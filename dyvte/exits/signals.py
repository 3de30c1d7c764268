"""What a model itself shows of whether its answer still needs the image: no gates, no training.

Each signal is one number per layer and sequence, near 0 where the visual tokens have stopped to
matter, read from the rows of the question alone (the text after the last image). ``dyvte
collect`` stores them all, ``dyvte calibrate`` chooses one and fits its scale, the policy
``state`` computes that one only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dyvte.exits.view import LayerView


def mass_last(view: LayerView) -> Tensor:
    """Attention of the last row on visual keys, mean over heads (0..1)."""
    return _visual_mass(view, last_only=True).mean()


def mass_last_head(view: LayerView) -> Tensor:
    """The same of the head that looks at the image most."""
    return _visual_mass(view, last_only=True).amax()


def mass_question(view: LayerView) -> Tensor:
    """Attention of the question's rows on visual keys, mean over heads, of the row with most."""
    return _visual_mass(view, last_only=False).mean(0).amax()


def mass_question_head(view: LayerView) -> Tensor:
    """The same of the head and row with most."""
    return _visual_mass(view, last_only=False).amax()


def pull_last(view: LayerView) -> Tensor:
    """Length of what visual values add to the last row, beside its whole attention output."""
    return _pull(view, last_only=True).amax()


def pull_question(view: LayerView) -> Tensor:
    """The same of the question's row that is pulled most."""
    return _pull(view, last_only=False).amax()


def pull_question_mean(view: LayerView) -> Tensor:
    """The same, mean over the question's rows."""
    return _pull(view, last_only=False).mean()


SIGNALS: Mapping[str, Callable[[LayerView], Tensor]] = {
    "mass_last": mass_last,
    "mass_last_head": mass_last_head,
    "mass_question": mass_question,
    "mass_question_head": mass_question_head,
    "pull_last": pull_last,
    "pull_question": pull_question,
    "pull_question_mean": pull_question_mean,
}
"""By name, each ``LayerView -> [] float32``."""


def read_signals(view: LayerView, names: Sequence[str] = tuple(SIGNALS)) -> Tensor:
    """``[F]`` float32: the named signals of one sequence after one layer."""
    return torch.stack([SIGNALS[name](view) for name in names])


def _visual_mass(view: LayerView, last_only: bool) -> Tensor:
    """``[H, R]``: share of each head's and row's attention that falls on visual keys."""
    return view.once("mass", last_only, lambda: view.attention(last_only)[..., view.visual].sum(-1))


def _pull(view: LayerView, last_only: bool) -> Tensor:
    """``[R]``: ‖Σ over visual keys of A·v‖ / ‖Σ over all keys of A·v‖, heads side by side."""
    return view.once("pull", last_only, lambda: _pulled(view, last_only))


def _pulled(view: LayerView, last_only: bool) -> Tensor:
    weights = view.attention(last_only)
    values = view.cached()[1].float()
    heads, rows, keys = weights.shape
    grouped = weights.view(values.shape[0], -1, keys)
    visual = view.visual
    part = torch.bmm(grouped[..., visual], values[:, visual])
    whole = torch.bmm(grouped, values)
    view.flops += 2 * heads * rows * values.shape[-1] * (keys + len(visual))
    part, whole = (x.view(heads, rows, -1).transpose(0, 1).flatten(1) for x in (part, whole))
    length = torch.linalg.vector_norm
    share: Tensor = length(part, dim=-1) / length(whole, dim=-1).clamp(min=1e-12)
    return share
