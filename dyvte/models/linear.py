"""The forms of linear layers on a CPU: which kernel multiplies, from which layout.

``nn.Linear`` goes through one kernel that serves neither few rows nor bf16 well. ``prepare`` puts
modules of the same name, parameters and result in its place, when a model is loaded; layers, norms
and activations stay the model's own. The forms and what was measured of them:
``docs/decisions/0013-linear-layers-on-cpus.md``.

Shapes: T rows, K in_features, N out_features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyvte import cpu
from dyvte.errors import OptionError
from dyvte.kernels import ops
from dyvte.kernels.ops import Panels
from dyvte.models import fused
from dyvte.models.adapter import ModelAdapter
from dyvte.models.decoder import DecoderAdapter
from dyvte.models.vision import tower
from dyvte.models.workspace import Workspace

WEIGHTS = ("auto", "plain", "int8")
FEW, MANY = 4, 320
"""Rows between which oneDNN is the faster in float32; below, MKL takes a vector at a time, and
above, its repacking of the weights is paid back."""
SMALLEST = 2**19
"""Weights below this many numbers stay in the caches, where a call costs more than a product."""
LAYOUT_ROWS = 64
"""The number of rows that oneDNN is told when it lays out weights."""

TORCH: Mapping[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
"""What ``ops.ACTIVATIONS`` are, with gradients."""

Form = Callable[[nn.Linear], nn.Module]


class PanelLinear(nn.Module):
    """float32 rows over weights in panels (``dyvte.kernels``), 16 bit where that loses nothing.

    ``activation`` is one of ``ops.ACTIVATIONS``, of what comes out. ``weight`` is opaque
    (``to_dense`` gives it back) and takes no gradient; the rows do.
    """

    def __init__(self, linear: nn.Linear, activation: str = "") -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.activation = activation
        self.hold(ops.lay_out(linear.weight.detach()))
        self.bias = linear.bias

    def hold(self, panels: Panels) -> None:
        """Take the same weights from elsewhere, such as from where they lie beside others."""
        self.panels = panels
        self.weight = nn.Parameter(panels.data, requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[…, K] → […, N]``."""
        if hidden.requires_grad and torch.is_grad_enabled():
            return TORCH[self.activation](F.linear(hidden, self.to_dense(), self.bias))
        rows = hidden.reshape(-1, self.in_features)
        out = ops.activated_linear(rows, self.panels, self.bias, self.activation)
        return out.view(*hidden.shape[:-1], self.out_features)

    def to_dense(self) -> Tensor:
        """``[N, K]`` as they were before, in float32."""
        return ops.dense(self.panels)


class RowsLinear(nn.Module):
    """float32 without kernels of ours: torch's that is faster for as many rows, weights untouched.

    With gradients it is ``nn.Linear``.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """``[…, K] → […, N]``."""
        rows = hidden.numel() // self.in_features
        if FEW <= rows <= MANY and not torch.is_grad_enabled():
            return _onednn(hidden, self.weight, self.bias)
        return F.linear(hidden, self.weight, self.bias)


class PackedLinear(nn.Module):
    """bfloat16: weights held in oneDNN's own layout, so that no call reorders them first.

    ``weight`` is opaque (``to_dense`` gives it back) and takes no gradient.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), LAYOUT_ROWS)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """``[…, K] → […, N]``."""
        return _onednn(hidden, self.weight, self.bias)


class Int8Linear(nn.Module):
    """Weights and rows in 8 bit: one scale an output and one a row, sums exact in 32 bit.

    A row's scale is its own, and integers add up to the same in any order: a row's result does
    not depend on the rows beside it.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with torch.no_grad():
            weight, scale = quantize(linear.weight.float())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale[:, 0], requires_grad=False)
        self.bias = linear.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """``[…, K] → […, N]``, in the type that came."""
        rows, scale = quantize(hidden.reshape(-1, self.in_features).float())
        out = torch._int_mm(rows, self.weight.t()).float().mul_(scale).mul_(self.scale)
        if self.bias is not None:
            out += self.bias
        return out.to(hidden.dtype).view(*hidden.shape[:-1], self.out_features)


def quantize(rows_TK: Tensor) -> tuple[Tensor, Tensor]:
    """int8 ``[T, K]`` and the float32 scale ``[T, 1]`` of each row: its largest number is ±127."""
    scale = rows_TK.abs().amax(-1, keepdim=True).div_(127)
    scale.clamp_(min=torch.finfo(torch.float32).tiny)
    return (rows_TK / scale).round_().to(torch.int8), scale


def prepare(adapter: ModelAdapter, weights: str = "auto") -> None:
    """Give the model's linear layers the form that ``weights`` names. Mutates the model.

    "plain" leaves them alone, "auto" takes the fastest form of the same numbers that this machine
    has one for, "int8" quantises the decoder's layers and not its head. Raises OptionError.
    """
    if weights not in WEIGHTS:
        raise OptionError("weights", f"{weights!r} is none of {', '.join(WEIGHTS)}")
    if not isinstance(adapter, DecoderAdapter):
        return
    if weights == "int8":
        _check_int8(adapter)
    exact = _fastest(adapter) if weights != "plain" else None
    form = Int8Linear if weights == "int8" else exact
    if form is not None:
        adapter.replace_linears(form, exact)
    if weights != "plain" and adapter.device.type == "cpu" and ops.computes(adapter.dtype):
        in_head = PanelLinear if exact is PanelLinear else _as_it_is
        made = partial(fused.layer, dtype=adapter.dtype, space=Workspace())
        adapter.fuse(made, in_head)
    if exact is PanelLinear:
        tower.replace(adapter.model, PanelLinear)


def bytes_to_hold(adapter: ModelAdapter, stored: torch.dtype | None) -> int:
    """Bytes of all weights of a model without any, after ``prepare`` on this machine's processor.

    ``stored`` is the checkpoint's type: what came from 16 bit stays 16 bit in panels. A head that
    shares the embedding's weights gets panels of its own.
    """
    held = adapter.parameter_bytes()
    if not isinstance(adapter, DecoderAdapter) or adapter.dtype != torch.float32:
        return held
    if ops.available():
        size = 2 if stored in (torch.bfloat16, torch.float16) else 4
        for weight in (*(each.weight for each in adapter.linears()), *tower.weights(adapter.model)):
            held += -(-len(weight) // ops.panel()) * ops.panel() * weight[0].numel() * size
            if not adapter.shares_embedding(weight):
                held -= weight.numel() * weight.element_size()
    return held


def _fastest(adapter: DecoderAdapter) -> Form | None:
    """Without rounding anything that was not rounded before; None: as it is."""
    if adapter.device.type != "cpu":
        return None
    if adapter.dtype == torch.float32 and ops.available():
        return PanelLinear
    if not torch.backends.mkldnn.is_available():
        return None
    if adapter.dtype == torch.float32 and cpu.has_avx512():
        return by_size
    if adapter.dtype == torch.bfloat16 and cpu.computes_bf16():
        return PackedLinear
    return None


def by_size(linear: nn.Linear) -> nn.Module:
    """``RowsLinear`` where its kernels differ enough to matter."""
    return RowsLinear(linear) if linear.weight.numel() >= SMALLEST else linear


def _as_it_is(linear: nn.Linear) -> nn.Module:
    return linear


def _check_int8(adapter: DecoderAdapter) -> None:
    if adapter.device.type != "cpu":
        raise OptionError("weights", f"int8 is computed on a CPU only, not on {adapter.device}")
    if not cpu.computes_int8():
        raise OptionError("weights", "int8 needs a CPU with VNNI or AMX; use auto or plain")


def _onednn(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    return out
