"""What the prompts of a prefill group show, encoded a few images at a time.

Images that were seen before come from the cache, and those that several requests of the group
show are encoded once. Knows the vision tower through the adapter; knows no layers and no clock
but its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dyvte.engine.image_cache import ImageCache
from dyvte.engine.pace import Pace
from dyvte.engine.sequence import RequestState
from dyvte.models.adapter import ModelAdapter

log = logging.getLogger("dyvte.engine")


@dataclass(slots=True)
class Job:
    """The images of one prompt, for all requests that show them; ``rows`` are those done."""

    owners: list[RequestState]
    parts: list[Mapping[str, Any]]
    flops: list[int]
    rows: list[list[Tensor]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seen:
    """One look: its seconds, its FLOPs, and the requests whose images the tower cannot take."""

    seconds: float = 0.0
    flops: int = 0
    failed: Sequence[tuple[RequestState, Exception]] = ()


class Pictures:
    """The images of a group. Fills in ``image_rows`` of its requests; the cache is the engine's."""

    def __init__(
        self, model: ModelAdapter, cache: ImageCache, requests: Sequence[RequestState]
    ) -> None:
        self._model = model
        self._cache = cache
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
        """True if some image has still to be encoded, or a request told that its cannot be."""
        return bool(self._jobs or self._failed)

    def encode(self, pace: Pace, work: int | None) -> Seen:
        """Run the tower over the next images that ``work`` allows (None: all), one at least.

        If that raises, over each by itself, so that only the requests at fault fail.
        """
        chosen = self._next(pace, work)
        unread, self._failed = self._failed, []
        if not chosen:
            return Seen(failed=unread)
        parts = [job.parts[at] for job, at in chosen]
        flops = sum(job.flops[at] for job, at in chosen)
        began = time.perf_counter()
        found: Sequence[list[Tensor] | Exception]
        try:
            found = self._model.encode_images(parts)
        except Exception:
            log.exception("vision step failed; encoding one image at a time")
            found = [self._alone(part) for part in parts]
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
        seconds = time.perf_counter() - began
        pace.vision.learn(flops, seconds)
        for state in {id(s): s for job, _ in chosen for s in job.owners}.values():
            state.clock.vision += seconds
        return Seen(seconds, flops, [*unread, *self._take(chosen, found)])

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

    def _next(self, pace: Pace, work: int | None) -> list[tuple[Job, int]]:
        """Parts in their order, until the next would exceed ``work``."""
        chosen: list[tuple[Job, int]] = []
        for job in self._jobs:
            for at in range(len(job.rows), len(job.parts)):
                if work is not None:
                    work -= pace.image_work(job.flops[at])
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
