"""Whether a folder in ``transformers``' own layout holds a model's parts and tensors.

Looked at before a weight is read, for ``transformers`` itself fills what is missing: parts of a
config with another model's sizes, weights at random, and it drops what it does not know.

Which stored name is which parameter only ``transformers`` knows, and it says so in three names that
are no part of its promises (tried with 5.20.0, 5.22.0 and 5.23.0): ``get_model_conversion_mapping``
in ``conversion_mapping``, ``WeightRenaming`` and ``rename_source_key`` in ``core_model_loading``.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from dyvte.errors import ModelError
from dyvte.exits.files import gate_key

CONSTANTS = ("inv_freq", "position_ids", "lm_head.weight")


def check_parts(config: dict[str, Any]) -> None:
    """Refuse a config without a decoder or a tower. Raises ModelError.

    Older Qwen-VL configs have their decoder's settings at the top.
    """
    flat = str(config.get("model_type")).startswith("qwen2") and "hidden_size" in config
    for part in ("text_config", "vision_config"):
        said = config.get(part, {} if part == "text_config" and flat else None)
        if not isinstance(said, dict):
            found = f"{part} {said!r} is not an object" if part in config else f"has no {part}"
            raise ModelError(f"config.json {found}; another model's sizes would stand in for it")
    if config["vision_config"].get("patch_size") == 0:
        raise ModelError("config.json: patch_size 0 of the vision tower is not a number above 0")


def linear_weights(model: nn.Module) -> frozenset[str]:
    """Names of the weights that a library may have packed into another shape."""
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return frozenset(f"{name}.weight" for name in linear)


def check_shapes(stored: Mapping[str, Sequence[int]], model: Any, but: Container[str] = ()) -> None:
    """Compare shapes in the files' headers with a model on the meta device. Raises ModelError.

    Parameters named in ``but`` may have any.
    """
    own = model.state_dict()
    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    for name, shape in stored.items():
        new, _ = rename_source_key(name, renamings, [], model.base_model_prefix, own)
        if new in own and new not in but and list(own[new].shape) != list(shape):
            raise ModelError(
                f"tensor {name!r} has shape {list(shape)}; by config.json it is "
                f"{list(own[new].shape)}"
            )


def check_names(missing: Iterable[str], unexpected: Iterable[str], gates: bool) -> None:
    """Refuse what ``transformers`` would fill in or drop. Raises ModelError.

    ``gates``: those inside the weights have been read. Older checkpoints carry constants and the
    head that is tied to the embedding; those are no loss.
    """
    if lost := sorted(missing):
        raise ModelError(f"weights are missing ({', '.join(lost[:3])}, …)")
    left = (name for name in unexpected if not (gates and gate_key(name)))
    if odd := sorted(name for name in left if not name.endswith(CONSTANTS)):
        raise ModelError(f"unknown tensor {odd[0]!r} (of {len(odd)}) in the weights")
