"""Weights rounded by other libraries while a model is loaded: torchao and bitsandbytes, by name.

Only the linear layers of the decoder's layers are rounded; head, embedding, vision tower, projector
and gates keep their type. The libraries are extras (``dyvte[quant]``). What each form costs in time
and in answers: ``docs/decisions/0015-quantised-weights.md``.

Shapes: K in_features, N out_features.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dyvte.errors import OptionError
from dyvte.models.adapter import ModelAdapter
from dyvte.models.decoder import DecoderAdapter
from dyvte.models.linear import WEIGHTS as OWN
from dyvte.models.linear import prepare

REMEDY = "pip install 'dyvte[quant]'"
LIBRARIES = {"torchao-int8": "torchao", "bnb-int8": "bitsandbytes", "bnb-nf4": "bitsandbytes"}
WEIGHTS = (*OWN, *LIBRARIES)

Form = Callable[[nn.Linear], nn.Module]


class RoundedLinear(nn.Module):
    """A linear layer whose weight is a tensor of torchao's, which knows how it is multiplied.

    Another class than ``nn.Linear``, so that forms made for plain weights leave it alone. What that
    tensor holds are the parameters here: it shows the type and the bytes that it was made from.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight, self.bias = (linear.weight,), linear.bias
        held: Any = linear.weight
        for name in held.__tensor_flatten__()[0]:
            self.register_parameter(name, nn.Parameter(getattr(held, name), requires_grad=False))

    def forward(self, hidden: Tensor) -> Tensor:
        """``[…, K] → […, N]``."""
        return F.linear(hidden, self._weight[0], self.bias)


def check_weights(weights: str, stored: str | None) -> None:
    """Refuse a form that cannot be had, before a weight is read. Raises OptionError.

    ``stored`` names the library that rounded the checkpoint, if one did.
    """
    if weights not in WEIGHTS:
        raise OptionError("weights", f"{weights!r} is none of {', '.join(WEIGHTS)}")
    if weights in ("auto", "plain"):
        return
    if stored is not None:
        raise OptionError(
            "weights",
            f"the checkpoint was rounded by {stored} already, and {weights} would round it again; "
            "leave it out, or take the checkpoint as it was before",
        )
    if weights in LIBRARIES:
        library(LIBRARIES[weights], f"{weights} needs it")


def give_form(adapter: ModelAdapter, weights: str) -> None:
    """Give the decoder's linear layers the form that ``weights`` names. Mutates the model.

    Forms of other libraries are put into the layers first; the head, and layers that are as they
    were loaded, go on to ``dyvte.models.linear``. Raises OptionError.
    """
    if isinstance(adapter, DecoderAdapter):
        adapter.replace_linears(_kept, _kept)
        if weights in LIBRARIES:
            adapter.replace_linears(_form(weights, adapter), None)
    prepare(adapter, "auto" if weights in LIBRARIES else weights)


def library(name: str, why: str) -> Any:
    """An optional library. Raises OptionError with the remedy where it is not there.

    What they warn of while they are loaded, kernels of other devices, is nobody's concern.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = importlib.import_module(name)
        except ImportError as error:
            raise OptionError("weights", f"{name} is not installed, and {why}: {REMEDY}") from error
    # Each call of its 8-bit product says in the log that rows are rounded from float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return found


def _kept(linear: nn.Linear) -> nn.Module:
    held = hasattr(type(linear.weight), "__tensor_flatten__")
    return RoundedLinear(linear) if held else linear


def _form(weights: str, adapter: DecoderAdapter) -> Form:
    if weights == "torchao-int8":
        return _torchao_int8
    make = _bnb_int8 if weights == "bnb-int8" else _bnb_nf4
    return lambda linear: make(linear).to(adapter.device).eval()


def _torchao_int8(linear: nn.Linear) -> nn.Module:
    """Weight-only: one scale an output; each call widens the weights to the rows' type."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(linear, Int8WeightOnlyConfig())
    return RoundedLinear(linear)


def _bnb_int8(linear: nn.Linear) -> nn.Module:
    """Weights and rows in 8 bit, one scale an output and one a row.

    Threshold 0: with the library's own 6 a column that is large in one row is multiplied in 16 bit
    for all rows of the batch, and a request's answer would depend on its company.
    """
    import bitsandbytes as bnb

    sizes = linear.in_features, linear.out_features
    made: nn.Module = bnb.nn.Linear8bitLt(
        *sizes, bias=linear.bias is not None, has_fp16_weights=False, threshold=0.0, device="meta"
    )
    made.weight = bnb.nn.Int8Params(_on_cpu(linear), requires_grad=False, has_fp16_weights=False)
    made.bias = linear.bias
    return made


def _bnb_nf4(linear: nn.Linear) -> nn.Module:
    """Weights in 4 bit, one scale for 64 of them; rows and products in the model's type."""
    import bitsandbytes as bnb

    sizes = linear.in_features, linear.out_features
    made: nn.Module = bnb.nn.Linear4bit(
        *sizes, bias=linear.bias is not None, compute_dtype=linear.weight.dtype, device="meta"
    )
    made.weight = bnb.nn.Params4bit(_on_cpu(linear), requires_grad=False, quant_type="nf4")
    made.bias = linear.bias
    return made


def _on_cpu(linear: nn.Linear) -> Tensor:
    """bitsandbytes rounds what moves away from there."""
    return linear.weight.detach().to("cpu")
