"""Whether a checkpoint's tensors are a model's, told from names and shapes, and the model of them.

No weight is read before all names and shapes are known to fit. No weight is held twice: each is
cast as it is read, and nobody but the model holds it when the model moves to its device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dyvte.errors import ModelError

Rename = Callable[[str, Tensor], Iterable[tuple[str, Tensor]]]
"""One stored tensor → the model's own tensors that it holds."""
Stored = tuple[Mapping[str, Sequence[int]], Rename]
"""Shapes of the tensors of one folder, and what they are here."""


def check_tensors(model: Any, *stored: Stored, tied: bool = False) -> None:
    """Compare what folders store with a model on the meta device. Raises ModelError.

    A tensor that nothing takes, one that is missing, and one of another shape are refused by name.
    ``tied``: the LM head is the embedding and may be missing.
    """
    own: dict[str, Tensor] = model.state_dict()
    found: set[str] = set()
    for shapes, rename in stored:
        for name, shape in shapes.items():
            for new, part in _parts(name, shape, rename):
                if new not in own:
                    raise ModelError(f"unknown tensor {name!r}")
                if part.shape != own[new].shape:
                    raise ModelError(
                        f"tensor {name!r} has shape {list(shape)}, which makes {new} "
                        f"{list(part.shape)}; by config.json that is {list(own[new].shape)}"
                    )
                found.add(new)
    missing = sorted(own.keys() - found - ({"lm_head.weight"} if tied else set()))
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ModelError(
            f"weights are missing: {missing[0]}, by config.json {list(own[missing[0]].shape)}{more}"
        )


def _parts(name: str, shape: Sequence[int], rename: Rename) -> list[tuple[str, Tensor]]:
    """Names and shapes after renaming. Raises ModelError where that splits what does not split."""
    try:
        return list(rename(name, torch.empty(*shape, device="meta")))
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ModelError(
            f"tensor {name!r} has shape {list(shape)}, which does not fit config.json"
        ) from error


def filled(
    kind: Any,
    config: Any,
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    attention: str | dict[str, str],
) -> Any:
    """A class of ``transformers`` over these weights, which are checked already."""
    model = kind.from_pretrained(
        None,
        config=config,
        state_dict=dict(state),
        dtype=dtype,
        attn_implementation=attention,
    )
    return model.eval()
