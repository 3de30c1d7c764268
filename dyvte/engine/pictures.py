"""What the prompts of a prefill group show, encoded a few images at a time.

Images that were seen before come from the cache, and those that several requests of the group
show are encoded once. The tower runs on a line of its own, beside the decode steps of others.
Knows the vision tower through the adapter; knows no layers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dyvte.engine.image_cache import ImageCache
from dyvte.engine.pace import Pace
from dyvte.engine.sequence import RequestState
from dyvte.models.adapter import ModelAdapter
from dyvte.streams import Lap, SideLine, Timings

log = logging.getLogger("dyvte.engine")


@dataclass(slots=True)
class Job:
    """The images of one prompt, for all requests that show them; ``rows`` are those done."""

    owners: list[RequestState]
    parts: list[Mapping[str, Any]]
    flops: list[int]
    rows: list[list[Tensor]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Tower:
    """The vision tower as groups use it; ``tell`` hears the seconds of each run of it.

    What its ``line`` gives may be used once it was taken from there.
    """

    model: ModelAdapter
    cache: ImageCache
    pace: Pace
    line: SideLine
    timings: Timings
    tell: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the tower that has been given to the device."""

    lap: Lap
    flops: int
    states: Sequence[RequestState]


@dataclass(frozen=True, slots=True)
class Seen:
    """One look: FLOPs of the run that it began, and the requests whose images cannot be taken."""

    flops: int = 0
    failed: Sequence[tuple[RequestState, Exception]] = ()


class Pictures:
    """The images of a group. Fills in ``image_rows`` of its requests; the cache is the engine's."""

    def __init__(self, tower: Tower, requests: Sequence[RequestState]) -> None:
        self._tower = tower
        self._model, self._cache = tower.model, tower.cache
        self._running: Run | None = None
        self._failed: list[tuple[RequestState, Exception]] = []
        jobs: dict[tuple[str, bytes] | int, Job] = {}
        for state in requests:
            if state.image_rows is not None:
                continue
            if not state.layout.spans:
                state.image_rows = []
                continue
            try:
                if not self._found(state):
                    self._want(jobs, state)
            except Exception as error:
                self._failed.append((state, error))
        self._jobs = list(jobs.values())

    @property
    def left(self) -> bool:
        """True if some image has still to be encoded, or a request told that its cannot be.

        Or if others decode while the last ones are: the group's layers would hold these up.
        """
        return bool(self._jobs or self._failed or self._running)

    def encode(self, work: int | None, beside: bool) -> Seen:
        """Give the tower the next images that ``work`` allows (None: all), one at least.

        If that raises, each by itself, so that only the requests at fault fail. With others
        decoding ``beside`` it, one run ends before the next begins.
        """
        unread, self._failed = self._failed, []
        if not self._ended(wait=not beside):
            return Seen(failed=unread)
        chosen = self._next(work)
        if not chosen:
            return Seen(failed=unread)
        flops = sum(job.flops[at] for job, at in chosen)
        with self._tower.line.run() as lap:
            failed = self._take(chosen, self._encoded([job.parts[at] for job, at in chosen]))
        states = {id(state): state for job, _ in chosen for state in job.owners}
        run = Run(lap, flops, [*states.values()])
        if beside:
            self._running = run
            self._ended(wait=False)
        else:
            self._tower.timings.add(lap, lambda seconds: self._tell(run, seconds))
        return Seen(flops, [*unread, *failed])

    def _ended(self, wait: bool) -> bool:
        """True if no run of the tower is under way any more."""
        run = self._running
        if run is not None and (wait or run.lap.done):
            self._running = None
            self._tell(run, run.lap.seconds)
        return self._running is None

    def _tell(self, run: Run, seconds: float) -> None:
        self._tower.pace.vision.learn(run.flops, seconds)
        self._tower.tell(seconds)
        for state in run.states:
            state.clock.vision += seconds

    def _encoded(self, parts: Sequence[Mapping[str, Any]]) -> Sequence[list[Tensor] | Exception]:
        try:
            return self._model.encode_images(parts)
        except Exception:
            log.exception("vision step failed; encoding one image at a time")
            return [self._alone(part) for part in parts]

    def leave(self, state: RequestState) -> None:
        """A request is gone; what only it wanted to see is not encoded."""
        self._failed = [each for each in self._failed if each[0] is not state]
        for job in self._jobs:
            job.owners = [each for each in job.owners if each is not state]
            if job.owners and job.owners[0].image_hit:
                job.owners[0].image_hit = False  # who was first is gone: now this one pays
        self._jobs = [job for job in self._jobs if job.owners]

    def _found(self, state: RequestState) -> bool:
        """Take the rows of its images from the cache, if it may be asked and has them."""
        key = state.request.prompt.image_key
        if key is None or not self._cache.max_bytes:
            return False
        state.image_rows = self._cache.get(state.request.cache_salt, key)
        state.image_hit = state.image_rows is not None
        return state.image_hit

    def _want(self, jobs: dict[tuple[str, bytes] | int, Job], state: RequestState) -> None:
        """A job for the request, or a share in that of another which shows the same."""
        identity = _identity(state)
        if identity in jobs:
            jobs[identity].owners.append(state)
            state.image_hit = True
            return
        parts = list(self._model.split_images(state.images))
        jobs[identity] = Job([state], parts, [self._model.vision_flops(each) for each in parts])

    def _next(self, work: int | None) -> list[tuple[Job, int]]:
        """Parts in their order, until the next would exceed ``work``."""
        chosen: list[tuple[Job, int]] = []
        for job in self._jobs:
            for at in range(len(job.rows), len(job.parts)):
                if work is not None:
                    work -= self._tower.pace.image_work(job.flops[at])
                    if work < 0 and chosen:
                        return chosen
                chosen.append((job, at))
        return chosen

    def _alone(self, part: Mapping[str, Any]) -> list[Tensor] | Exception:
        try:
            return self._model.encode_images([part])[0]
        except Exception as error:
            return error

    def _take(
        self, chosen: Sequence[tuple[Job, int]], found: Sequence[list[Tensor] | Exception]
    ) -> list[tuple[RequestState, Exception]]:
        """File what came; jobs that are done or have failed end. Returns whom the latter fail."""
        failed: dict[int, tuple[Job, Exception]] = {}
        for (job, _), rows in zip(chosen, found, strict=True):
            if isinstance(rows, Exception):
                failed.setdefault(id(job), (job, rows))
                continue
            job.rows.append(rows)
            if len(job.rows) == len(job.parts):
                try:
                    self._finish(job)
                except Exception as error:
                    failed[id(job)] = job, error
        self._jobs = [
            job for job in self._jobs if id(job) not in failed and len(job.rows) < len(job.parts)
        ]
        return [(state, error) for job, error in failed.values() for state in job.owners]

    def _finish(self, job: Job) -> None:
        first = job.owners[0]
        rows = self._model.join_images(first.images, job.rows)
        for state in job.owners:
            state.image_rows = rows
        key = first.request.prompt.image_key
        if key is not None and rows:
            self._cache.put(first.request.cache_salt, key, rows)


def _identity(state: RequestState) -> tuple[str, bytes] | int:
    """The same for requests that may share their images' rows."""
    if state.image_hit is None:
        return id(state)
    return state.request.cache_salt, state.request.prompt.image_key or b""
