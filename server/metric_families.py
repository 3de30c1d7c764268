"""Prometheus families with closed label sets: every child is made together with its family.

A rate never begins with a hole, and no client can grow the page: a label value that was not
declared is a mistake of ours and a KeyError, never a new series. Children are looked up once, so
that an observer in the engine's thread pays for an addition and not for a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound=MetricWrapperBase)


class Children(Generic[M]):
    """The children of one family, called with label values in the order of their declaration."""

    def __init__(self, made: Mapping[tuple[str, ...], M]) -> None:
        self._made = made

    def __call__(self, *values: str) -> M:
        """The child. Raises KeyError for values that were not declared."""
        return self._made[values]


class Families:
    """Makes families on one registry; each carries ``model_name`` before its own labels."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        self._registry = registry
        self._model = model_name

    def counter(self, name: str, text: str, **labels: Sequence[str]) -> Children[Counter]:
        """``name`` without ``_total``; one child per combination of the labels' values."""
        names = ("model_name", *labels)
        return self._filled(Counter(name, text, names, registry=self._registry), labels)

    def gauge(self, name: str, text: str, **labels: Sequence[str]) -> Children[Gauge]:
        """As ``counter``."""
        names = ("model_name", *labels)
        return self._filled(Gauge(name, text, names, registry=self._registry), labels)

    def histogram(
        self, name: str, text: str, buckets: Sequence[float], **labels: Sequence[str]
    ) -> Children[Histogram]:
        """As ``counter``; ``buckets`` are upper bounds in the unit of the name."""
        names = ("model_name", *labels)
        made = Histogram(name, text, names, buckets=buckets, registry=self._registry)
        return self._filled(made, labels)

    def _filled(self, family: M, labels: Mapping[str, Sequence[str]]) -> Children[M]:
        combinations = product(*labels.values())
        return Children({values: family.labels(self._model, *values) for values in combinations})
