"""What is asked of CUDA, told by a CUDA that only writes down; on a CPU it has happened already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from dyvte import transfer
from dyvte.streams import Lap, Mark, SideLine, Timings

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class FakeCuda:
    """Streams and events by name; ``said`` is what was asked of them, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.now = "main"
        self.done = False

    def stream_of(self, name: str) -> Any:
        return _Stream(self, name)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        cuda = torch.cuda
        patch.setattr(cuda, "Stream", lambda device: self.stream_of("side"))
        patch.setattr(cuda, "current_stream", lambda device: self.stream_of(self.now))
        patch.setattr(cuda, "stream", self._switch)
        patch.setattr(cuda, "Event", lambda enable_timing: _Event(self))

    @contextmanager
    def _switch(self, stream: _Stream) -> Iterator[None]:
        before, self.now = self.now, stream.name
        try:
            yield
        finally:
            self.now = before


class _Stream:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: _Stream) -> None:
        self.cuda.said.append(f"{self.name} waits for {other.name}")


class _Event:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def record(self, stream: _Stream) -> None:
        self.cuda.said.append(f"event on {stream.name}")

    def synchronize(self) -> None:
        self.cuda.said.append("host waits")

    def query(self) -> bool:
        return self.cuda.done

    def elapsed_time(self, end: _Event) -> float:
        return 1500.0


class _Rows:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def record_stream(self, stream: _Stream) -> None:
        self.cuda.said.append(f"rows kept for {stream.name}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


def test_what_a_side_line_gives_is_waited_for_by_the_main_line_and_kept_for_it(
    cuda: FakeCuda,
) -> None:
    line = SideLine(CUDA)
    with line.run() as lap:
        cuda.said.append(f"encode on {cuda.now}")
    line.taken([cast(Tensor, _Rows(cuda))])
    assert cuda.said == [
        "side waits for main",
        "event on side",
        "encode on side",
        "event on side",
        "main waits for side",
        "rows kept for main",
    ]
    assert not lap.done


def test_a_lap_ends_where_its_work_raised(cuda: FakeCuda) -> None:
    line = SideLine(CUDA)
    with pytest.raises(ValueError, match="no picture"), line.run():
        raise ValueError("no picture")
    assert cuda.said == ["side waits for main", "event on side", "event on side"]
    assert cuda.now == "main"


def test_asking_whether_a_lap_is_done_waits_for_nobody(cuda: FakeCuda) -> None:
    lap = Lap(CUDA)
    lap.stop()
    seen = [lap.done]
    cuda.done = True
    seen.append(lap.done)
    assert seen == [False, True]
    assert "host waits" not in cuda.said
    assert lap.seconds == 1.5
    assert cuda.said[-1] == "host waits"


def test_a_mark_is_waited_for_only_when_asked(cuda: FakeCuda) -> None:
    mark = Mark(CUDA)
    assert cuda.said == ["event on main"]
    mark.wait()
    assert cuda.said[-1] == "host waits"


def test_on_a_cpu_all_of_it_has_happened() -> None:
    line = SideLine(CPU)
    with line.run() as lap:
        torch.ones(2)
    line.taken([torch.ones(2)])
    Mark(CPU).wait()
    assert lap.done
    assert lap.seconds > 0


def test_laps_are_told_once_and_in_their_order() -> None:
    timings = Timings()
    told: list[float] = []
    laps = [Lap(CPU) for _ in range(3)]
    for lap in laps:
        lap.stop()
        timings.add(lap, told.append)
    timings.settle()
    timings.settle()
    assert told == [lap.seconds for lap in laps]


class _There(torch.Tensor):
    """A tensor that says it lies on CUDA, and writes down how it gets there and back."""

    said: list[str]

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True


def test_a_copy_to_cuda_is_pinned_and_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    to = Tensor.to

    def sent(tensor: Tensor, *args: Any, **settings: Any) -> Tensor:
        if args and args[0] == CUDA:
            said.append(settings)
            return tensor
        return to(tensor, *args, **settings)

    def pinned(tensor: Tensor) -> Tensor:
        said.append("pinned")
        return tensor

    monkeypatch.setattr(Tensor, "to", sent)
    monkeypatch.setattr(Tensor, "pin_memory", pinned)
    found = transfer.upload([1, 2], torch.int32, CUDA)
    assert (found.tolist(), found.dtype) == ([1, 2], torch.int32)
    assert said == ["pinned", {"non_blocking": True}]


def test_a_copy_from_cuda_is_pinned_and_waited_for_when_asked(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, copy = torch.empty, Tensor.copy_

    def made(*args: Any, pin_memory: bool = False, **settings: Any) -> Tensor:
        cuda.said.append(f"pinned {pin_memory}")
        return empty(*args, **settings)

    def copied(tensor: Tensor, other: Tensor, non_blocking: bool = False) -> Tensor:
        cuda.said.append(f"copy without waiting {non_blocking}")
        return copy(tensor, other.as_subclass(Tensor))

    monkeypatch.setattr(torch, "empty", made)
    monkeypatch.setattr(Tensor, "copy_", copied)
    monkeypatch.setattr(transfer, "Mark", lambda device: Mark(CUDA))
    here = torch.tensor([5])
    fetch = transfer.Fetch(torch.tensor([3, 4]).as_subclass(_There), here)
    assert cuda.said == ["pinned True", "copy without waiting True", "event on main"]
    first, second = fetch.get()
    assert cuda.said[-1] == "host waits"
    assert first.tolist() == [3, 4]
    assert second is here


def test_elsewhere_copies_are_the_plain_constructors() -> None:
    assert transfer.upload([1, 2], torch.int64, CPU).tolist() == [1, 2]
    own = torch.ones(2)
    assert transfer.moved(own, CPU) is own
    assert transfer.moved(own, CPU, torch.bfloat16).dtype is torch.bfloat16
    assert transfer.Fetch(own).get()[0] is own
