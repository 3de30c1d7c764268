"""A device pretended on the CPU, on which every hidden wait of the host is found.

Weights, pools and all that is computed from them lie on the device; what Python lists and numpy
make lies on the host. A number that is read from the device outside ``dyvte.transfer`` would make
the host wait on CUDA, and so would a tensor of the host that meets one of the device: on CUDA it
came by a copy that waits. Both are faults. What ``Fetch`` waits for is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dyvte import transfer

READ_BY_METHOD = {"tolist", "item", "cpu", "numpy"} | {
    f"__{name}__" for name in ("bool", "int", "float", "index", "array")
}
READ_BY_OPERATION = {
    f"aten::{name}"
    for name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")
}


class Place(Enum):
    DEVICE = "device"
    HOST = "host"
    EITHER = "either"  # made by an operation that reads no tensor: wherever it is asked to be


class EmulatedDevice(TorchDispatchMode):
    """In force from ``with emulated`` on, which a test enters around the engine's steps."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = 0
        self.faults: list[str] = []
        self._places: dict[int, Place] = {}
        self._kept: list[Tensor] = []  # a storage's address stays its own
        self._apart = 0
        self._methods = _Methods(self)
        sent, get = transfer._sent, transfer.Fetch.get

        def send(*args: Any) -> Tensor:
            with self.apart():
                return self.own([sent(*args).clone()])[0]

        def fetched(tensor: Tensor) -> Tensor:
            with self.apart():
                return tensor.clone()

        def counted(fetch: transfer.Fetch) -> list[Tensor]:
            self.reads += 1
            return get(fetch)

        patch.setattr(transfer, "_sent", send)
        patch.setattr(transfer, "_on_its_way", fetched)
        patch.setattr(transfer.Fetch, "get", counted)

    def __enter__(self) -> EmulatedDevice:
        self._methods.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)  # type: ignore[no-untyped-call]
        self._methods.__exit__(*args)  # type: ignore[no-untyped-call]

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What stands in for the device's own work may do as it likes."""
        self._apart += 1
        try:
            yield
        finally:
            self._apart -= 1

    def kernel(self, stands_in: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A kernel of the device, computed on the host."""

        def attend(*args: Any, **settings: Any) -> Tensor:
            with self.apart():
                return self.own([stands_in(*args, **settings)])[0]

        return attend

    def own(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """These lie on the device."""
        found = list(tensors)
        self._note(found, Place.DEVICE)
        return found

    def place(self, tensor: Tensor) -> Place:
        address = tensor.untyped_storage().data_ptr()
        return self._places.get(address, Place.HOST) if address else Place.EITHER

    def check_read(self, name: str, tensor: Any) -> None:
        """``name`` gives numbers of ``tensor`` to the host."""
        here = isinstance(tensor, Tensor) and self.place(tensor) is Place.DEVICE
        if here and not self._apart:
            self.faults.append(f"{name} reads from the device")

    def _note(self, tensors: Iterable[Tensor], place: Place) -> None:
        for each in tensors:
            self._places[each.untyped_storage().data_ptr()] = place
            self._kept.append(each)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._apart:
            return out
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        made = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        places = {self.place(each) for each in given}
        name = func._schema.name
        if Place.DEVICE in places:
            masks = any(each.dtype is torch.bool for each in given[1:])
            if name in READ_BY_OPERATION or (name == "aten::index" and masks):
                self.faults.append(f"{name} reads from the device")
            if any(each.dim() and self.place(each) is Place.HOST for each in given):
                self.faults.append(f"{name} meets a tensor that was not sent to the device")
            self._note(made, Place.DEVICE)
        else:
            self._note(made, Place.HOST if Place.HOST in places else Place.EITHER)
        return out


class _Methods(TorchFunctionMode):
    """Reads that are no operation on a CPU, where the numbers lie at hand."""

    def __init__(self, device: EmulatedDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READ_BY_METHOD and args:
            self._device.check_read(name, args[0])
        return func(*args, **(kwargs or {}))
