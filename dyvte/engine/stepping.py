"""One step's tensors: a group's images and layers, the decodes, and the rescue if either raises.

A step that raises is run again sequence by sequence, so that the request at fault fails alone and
its batch mates get the tokens that they would have got without it. Decides nothing about who
runs; ends nobody but through ``fail``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch

from dyvte.engine.pictures import Seen
from dyvte.engine.prefix_cache import PrefixCache
from dyvte.engine.runner import Output, Prefill, Runner
from dyvte.engine.sequence import RequestState, Sequence

log = logging.getLogger("dyvte.engine")


@dataclass(slots=True)
class Ran:
    """What a step ran: its logits and prefill rows (through all layers)."""

    outputs: list[Output] = field(default_factory=list)
    prefill_rows: int = 0


class Stepper:
    """Runs steps; between them it holds the prefill group in flight, if there is one."""

    def __init__(
        self,
        runner: Runner,
        prefixes: PrefixCache,
        fail: Callable[[RequestState, Exception], None],
    ) -> None:
        self.runner = runner
        self.prefixes = prefixes
        self.prefill: Prefill | None = None
        self.interrupted: Callable[[], bool] = _never
        self._fail = fail

    def step(self, group: Seq[Sequence], decodes: Seq[Sequence], work: int | None) -> Ran:
        """Run the group as far as ``work`` goes and one row of each decode.

        None: to its end, unless ``interrupted``.
        """
        ran = Ran()
        if group and self.prefill is None:
            self.prefill = self._opened(group)
        seen = self._see(work, beside=bool(decodes) and work is not None)
        if work is not None:
            work = max(0, work - self.runner.pace.image_work(seen.flops))
        decodes = [each for each in decodes if each.finish_reason is None]
        prefill = self.prefill
        if prefill is None or prefill.pictures.left:
            self._decode(decodes, ran)
        elif prefill.loop is None and self._joins(prefill, decodes, work):
            self.prefill = None
            self._run_joined(prefill.sequences, decodes, ran)
        else:
            self._advance(prefill, work, not seen.flops, ran)
            self._decode(decodes, ran)
        return _of_the_living(ran)

    def run_passing(self, group: Seq[Sequence], decodes: Seq[Sequence]) -> Ran:
        """Run prefills that need no image encoded, whole, while the group in flight rests."""
        ran, prefill = Ran(), self._opened(group)
        assert not prefill.pictures.left, "who passes has its images"
        self._run_joined(prefill.sequences, decodes, ran)
        return _of_the_living(ran)

    def leave(self, sequence: Sequence) -> None:
        """Take a sequence that has ended out of the group in flight, if it is there."""
        if self.prefill is not None and sequence in self.prefill.sequences:
            self.runner.leave(self.prefill, sequence)
            if not self.prefill.sequences:
                self.prefill = None

    def restart(self) -> None:
        """The group in flight has lost rows that it is taking: it begins again, without them."""
        if self.prefill is not None:
            self._rewind(self.prefill.sequences)
            self.prefill = None

    def spent(self, sequence: Sequence) -> int:
        """FLOPs that the group in flight has run, if ``sequence`` is in it."""
        if self.prefill is None or sequence not in self.prefill.sequences:
            return 0
        return self.prefill.flops

    def _opened(self, group: Seq[Sequence]) -> Prefill:
        now = time.perf_counter()
        for each in group:
            each.owner.clock.admitted = each.owner.clock.admitted or now
            self.prefixes.look_up(each)
        return self.runner.open(group)

    def _see(self, work: int | None, beside: bool) -> Seen:
        """Encode what ``work`` allows (None: all, some at a time, unless ``interrupted``)."""
        at_once, seen = self.runner.pace.piece if work is None else work, Seen()
        while self.prefill is not None and self.prefill.pictures.left:
            seen = self.runner.encode(self.prefill, at_once, beside)
            for state, error in seen.failed:
                self._fail(state, error)
            if work is not None or self.interrupted():
                break
        return seen

    def _joins(self, prefill: Prefill, decodes: Seq[Sequence], work: int | None) -> bool:
        """True if a group runs whole, in one forward with the decodes."""
        return bool(decodes) if work is None else self.runner.whole(prefill) <= work

    def _run_joined(self, group: Seq[Sequence], decodes: Seq[Sequence], ran: Ran) -> None:
        """A whole group and the decodes in one packed forward."""
        ran.prefill_rows = _rows(group)
        ran.outputs += self._rescued(lambda: self.runner.run(group, decodes), group, decodes)

    def _advance(self, prefill: Prefill, work: int | None, must: bool, ran: Ran) -> None:
        """A piece of a group that is cut. The outputs come with the last one."""
        layers = self.runner.model.decoder.num_layers
        rows, begins = prefill.row_layers // layers, prefill.loop is None
        interrupted = self.interrupted if work is None else _never
        outputs = self._rescued(
            lambda: self.runner.advance(prefill, work, must, interrupted), prefill.sequences, []
        )
        whole = begins and bool(outputs)
        ran.prefill_rows = (
            _rows(prefill.sequences) if whole else prefill.row_layers // layers - rows
        )
        ran.outputs += outputs
        if outputs:
            self.prefill = None

    def _decode(self, decodes: Seq[Sequence], ran: Ran) -> None:
        alive = [each for each in decodes if each.finish_reason is None]
        if alive:  # a group that failed may have taken some along
            ran.outputs += self._rescued(lambda: self.runner.run([], alive), [], alive)

    def _rescued(
        self, run: Callable[[], list[Output]], group: Seq[Sequence], decodes: Seq[Sequence]
    ) -> list[Output]:
        """``run``, or if that raises each of its sequences by itself; who raises again fails."""
        cache, in_flight = self.runner.cache, self.prefill
        if in_flight is not None and group is in_flight.sequences:
            group, in_flight = list(group), None
        before = {each.seq: cache.lengths(each.seq) for each in decodes}
        try:
            return run()
        except Exception as error:
            log.exception("engine step failed; running its sequences one at a time")
            short = isinstance(error, torch.OutOfMemoryError)
        if short and torch.cuda.is_available():
            torch.cuda.empty_cache()  # not above: there the error still holds the step's tensors
        self.prefill = in_flight
        cache.rewind(before)
        self._rewind(group)
        return [out for each in group for out in self._alone([each], [])] + [
            out for each in decodes for out in self._alone([], [each])
        ]

    def _rewind(self, group: Seq[Sequence]) -> None:
        """Forget all rows of a prefill."""
        cache = self.runner.cache
        cache.rewind({each.seq: [0] * cache.ledger.num_layers for each in group})

    def _alone(self, group: Seq[Sequence], decodes: Seq[Sequence]) -> list[Output]:
        (sequence,) = [*group, *decodes]
        if sequence.finish_reason is not None:
            return []  # another choice of its request has just failed
        before = self.runner.cache.lengths(sequence.seq)
        try:
            return self.runner.run(group, decodes)
        except Exception as error:
            self.runner.cache.rewind({sequence.seq: before})
            self._fail(sequence.owner, error)
            return []


def _never() -> bool:
    return False


def _of_the_living(ran: Ran) -> Ran:
    ran.outputs = [out for out in ran.outputs if out.sequence.finish_reason is None]
    return ran


def _rows(sequences: Seq[Sequence]) -> int:
    """Rows of their prompts that must run."""
    sources = [each.source for each in sequences if each.source is not None]
    return sum(each.rows for each in sequences) - sum(source.stop for source in sources)
