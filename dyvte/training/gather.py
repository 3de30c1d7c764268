"""A whole data file into a collection: shard by shard, from where the last run stopped.

Shard k holds the readable samples k·S … (k + 1)·S − 1 of the file and batches begin with it, so
that what is run together, and every byte written, depends on the file and the settings alone and
not on where a run was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dyvte.data import DataError, Sample, Skip, Skips, read_samples
from dyvte.model import Model
from dyvte.models import registry
from dyvte.models.parts import origin_of
from dyvte.training.collect import Plan, collect_batch
from dyvte.training.examples import Prepared, prepare
from dyvte.training.fingerprint import file_digest, model_digest
from dyvte.training.shards import (
    Card,
    Shard,
    plain,
    read_shard,
    shard_path,
    write_card,
    write_index,
    write_shard,
)
from dyvte.training.tensors import Row, stack_rows, tensor_names

AHEAD = 2
"""Batches whose pictures are opened while one runs."""


@dataclass(frozen=True, slots=True)
class Source:
    """The data: a file, where its image paths begin, and how many samples to take of it."""

    data: Path
    images: Path | None = None
    limit: int | None = None

    def samples(self, skips: Skips) -> Iterator[Sample]:
        """Read from the beginning. Raises DataError."""
        return islice(read_samples(self.data, self.images, skips), self.limit)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first reading found: how many samples, of which how many have an answer."""

    samples: int
    answered: int
    skips: Skips


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is in the collection now: samples, and every row that was passed over."""

    samples: int
    skipped: Sequence[Skip]


def survey(source: Source) -> Survey:
    """Read the file once without opening a picture. Raises DataError if nothing can be used."""
    skips, samples, answered = Skips(), 0, 0
    for sample in source.samples(skips):
        samples += 1
        answered += sample.answer is not None
    if not samples:
        first = f" ({skips.report(1)[0]})" if skips.count else ""
        raise DataError(f"{source.data} holds no samples{first}; see docs/training-gates.md")
    return Survey(samples, answered, skips)


@dataclass(frozen=True, slots=True)
class Collecting:
    """One run over ``source``: what to collect, and how much of it goes together.

    ``batch`` samples share a packed run, ``shard`` samples a file. ``progress(done, fresh)`` is
    told after every batch: samples done so far, and whether this run did them.
    """

    model: Model
    source: Source
    plan: Plan
    batch: int = 16
    shard: int = 256
    progress: Callable[[int, bool], None] = lambda done, fresh: None

    def into(self, out: Path, found: Survey) -> Gathered:
        """Collect everything, or the rest of it. Raises DataError, OSError."""
        write_card(out, self._card())
        shards: list[Shard] = []
        done = 0
        with ThreadPoolExecutor(1, "pictures") as worker:
            # What cannot be read is in ``found`` already.
            for number, samples in enumerate(_chunks(self.source.samples(Skips()), self.shard)):
                path = shard_path(out, number)
                if path.exists():
                    shards.append(read_shard(path))
                    self.progress(done + len(samples), False)
                else:
                    shards.append(self._fill(path, samples, done, worker))
                done += len(samples)
        skipped = [*found.skips.rows, *(skip for each in shards for skip in each.skipped)]
        write_index(out, shards, skipped)
        return Gathered(sum(len(each.ids) for each in shards), skipped)

    def _card(self) -> Card:
        adapter, plan = self.model.adapter, self.plan
        layers = plan.layers or tuple(range(adapter.decoder.num_layers))
        name = Path(self.model.name).name
        origin = origin_of(adapter, name)
        settings = {
            "model": name,
            "model_family": adapter.family,
            "model_weights": origin.weights if origin else "",
            "model_digest": model_digest(registry.find(self.model.name)),
            "dtype": str(adapter.dtype).removeprefix("torch."),
            "weights": self.model.weights,
            "device": adapter.device.type,
            "data": self.source.data.name,
            "data_digest": file_digest(self.source.data),
            "limit": self.source.limit,
            "labels": [*["paper"] * plan.paper, *["self"] * plan.consistent],
            "layers": layers,
            "signals": plan.signals,
            "max_tokens": plan.max_tokens,
            "batch": self.batch,
            "shard": self.shard,
        }
        return Card(adapter.decoder, layers, plan.signals, tensor_names(plan), plain(settings))

    def _fill(
        self, path: Path, samples: Sequence[Sample], before: int, worker: ThreadPoolExecutor
    ) -> Shard:
        """Collect one shard and write it; ``before`` samples were done before it."""
        rows: list[Row] = []
        skipped: list[Skip] = []
        for ready in self._prepared(samples, worker):
            if ready.examples:
                found = collect_batch(self.model.adapter, ready.examples, self.plan)
                rows += zip(ready.samples, found, strict=True)
            skipped += ready.skipped
            self.progress(before + len(rows) + len(skipped), True)
        ids, kinds = [sample.id for sample, _ in rows], [sample.kind for sample, _ in rows]
        shard = Shard(path, ids, kinds, skipped)
        write_shard(shard, stack_rows(self.model.adapter, self.plan, rows))
        return shard

    def _prepared(
        self, samples: Sequence[Sample], worker: ThreadPoolExecutor
    ) -> Iterator[Prepared]:
        """The batches of a shard, some of them prepared while others run."""
        waiting: list[Future[Prepared]] = []
        for several in _chunks(samples, self.batch):
            waiting.append(worker.submit(prepare, self.model, several, self.plan))
            if len(waiting) > AHEAD:
                yield waiting.pop(0).result()
        yield from (each.result() for each in waiting)


def _chunks(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    stream = iter(samples)
    while several := list(islice(stream, size)):
        yield several
