"""Gate files: a folder with ``gates.safetensors`` and ``gates.json``, or the published layout.

The folder is ours: tensors ``layers.{l}.w1.weight``, ``.w2.weight`` and, where a gate has one,
``layers.{l}.bias``, and a JSON card that says what the gates were made for and what was measured
of them. A card alone is enough for what needs no gates (policies ``state``, ``vtw`` and a
calibrated ``fixed``). The published code keeps its gates inside the checkpoint as
``model.visual_gates_router.{l}.w1.weight``; both are read, also from a single file, and a file
with only some of the matrices (say, every w2) is laid over the gates that are there already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dyvte.errors import ModelError
from dyvte.exits.gate import GateBank
from dyvte.exits.origin import Origin

FORMAT = "dyvte-gates"
CARD = "gates.json"
LINE = 100
_KEY = re.compile(r"(?:^|\.)(?:visual_gates_router|layers)\.(\d+)\.(?:(w[12])\.weight|(bias))$")


@dataclass(frozen=True, slots=True)
class GateCard:
    """What a gate folder says of itself (``gates.json``).

    ``model`` is the model that all of it is about: the one that the gates were fitted to, or the
    one that they were measured on later; None in cards that were written before there was one.
    ``trained_on`` is for people; ``training_data`` the digest of the data file that the gates
    were fitted on, which must not measure their risk. ``presets``, ``calibration``, ``state`` and
    ``vtw`` are plain values as ``dyvte calibrate`` wrote them; ``dyvte.exits.offers`` reads them.
    """

    hidden_size: int
    num_layers: int
    layers: tuple[int, ...]
    model: Origin | None = None
    trained_on: str = ""
    format: str = FORMAT
    version: int = 1
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None
    state: Mapping[str, Any] | None = None
    vtw: Mapping[str, Any] | None = None
    training_data: str = ""

    def check(self, hidden_size: int, num_layers: int) -> None:
        """Raise ModelError if this card does not belong to such a model."""
        if (self.hidden_size, self.num_layers) != (hidden_size, num_layers):
            raise ModelError(
                f"gates: the card is about a model of {self.num_layers} layers and hidden size "
                f"{self.hidden_size}, this one has {num_layers} and {hidden_size}"
            )


def gate_key(name: str) -> tuple[int, str] | None:
    """(layer, "w1"|"w2"|"bias") if a tensor of this name belongs to a gate."""
    if "visual_gates_router" not in name and not name.startswith("layers."):
        return None
    match = _KEY.search(name)
    return (int(match[1]), match[2] or match[3]) if match else None


def bank_from(tensors: Mapping[str, Tensor], base: GateBank | None = None) -> GateBank:
    """Build a bank from named tensors, laid over ``base`` where given.

    The bias of a gate of ``base`` goes with its matrices: where one is replaced, it is gone.
    """
    given = {key: tensor for name, tensor in tensors.items() if (key := gate_key(name))}
    replaced = {layer for layer, _ in given}
    weights: dict[str, dict[int, Tensor]] = {
        "w1": dict(base.w1) if base else {},
        "w2": dict(base.w2) if base else {},
        "bias": {k: b for k, b in base.bias.items() if k not in replaced} if base else {},
    }
    for (layer, part), tensor in given.items():
        weights[part][layer] = tensor
    return GateBank(**weights)


def read_gates(
    path: str | Path, base: GateBank | None = None
) -> tuple[GateBank | None, GateCard | None]:
    """Read a gate folder or file, laid over ``base``. Raises ModelError.

    Gates may be missing only where a card says that there are none.
    """
    root = Path(path)
    if not root.exists():
        raise ModelError(f"gates: {root} does not exist; give a folder with gates.safetensors")
    file = root / CARD if root.is_dir() else None
    card = _read_card(file) if file and file.exists() else None
    files = [root] if root.is_file() else sorted(root.glob("*.safetensors"))
    tensors = dict(_gate_tensors(files))
    if tensors:
        return bank_from(tensors, base), card
    if card is None or card.layers:
        raise ModelError(f"gates: no gate weights found in {root}")
    return base, card


def gates_inside(folder: Path) -> GateBank | None:
    """The gates among a checkpoint's weights; no other tensor is read. Raises ModelError."""
    tensors = dict(_gate_tensors(sorted(folder.glob("*.safetensors"))))
    return bank_from(tensors) if tensors else None


def _gate_tensors(files: Iterable[Path]) -> Iterable[tuple[str, Tensor]]:
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (safe_open is no mapping)
                    if gate_key(name):
                        yield name, opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"gates: {file} is not a safetensors file") from error


def _read_card(path: Path) -> GateCard:
    try:
        data = json.loads(path.read_text())
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ModelError(f"gates: {path} is not a {FORMAT} card")
        data["layers"] = tuple(data["layers"])
        data["model"] = Origin.of(data["model"]) if data.get("model") else None
        return GateCard(**data)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"gates: {path} cannot be read ({error})") from error


def write_gates(folder: str | Path, bank: GateBank | None, card: GateCard) -> None:
    """Write ``gates.safetensors`` (if there are gates) and ``gates.json``.

    The folder is made if missing.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    if bank is not None:
        tensors = {}
        for layer in sorted(bank.layers):
            tensors[f"layers.{layer}.w1.weight"] = bank.w1[layer].contiguous()
            tensors[f"layers.{layer}.w2.weight"] = bank.w2[layer].contiguous()
            if layer in bank.bias:
                tensors[f"layers.{layer}.bias"] = bank.bias[layer].contiguous()
        save_file(tensors, str(root / "gates.safetensors"), metadata={"format": "pt"})
    write_card(root, card)


def write_card(root: Path, card: GateCard) -> None:
    """Write ``gates.json`` whole or not at all; a short value stays on its line."""
    file = root / CARD
    temporary = file.with_name(f"{CARD}.tmp")
    temporary.write_text(_text(asdict(card)) + "\n")
    temporary.replace(file)


def _text(value: Any, indent: int = 0) -> str:
    """JSON that one can read and compare: what fits a line, and any point of a curve, is one."""
    line = json.dumps(value)
    if len(line) + indent <= LINE or not value or not isinstance(value, (dict, list, tuple)):
        return line
    if isinstance(value, dict) and "setting" in value:
        return line
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_text(each, indent + 1)}" for key, each in value.items()]
    else:
        items = [_text(each, indent + 1) for each in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{pad}" + f",\n{pad}".join(items) + f"\n{' ' * indent}{closing}"
