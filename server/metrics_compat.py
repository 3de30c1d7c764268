"""The same numbers under the names that another server gives them.

For its dashboards and autoscalers. Nothing is counted twice: an alias is made from our families
while a page is written, summed over the labels that the other side does not have. Off unless
``--metrics-compat`` names a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Metric

# The names and units are those of vLLM's own /metrics; "perc" is a ratio of 0..1 there as well.
VLLM = {
    "dyvte_requests_running": "vllm:num_requests_running",
    "dyvte_requests_waiting": "vllm:num_requests_waiting",
    "dyvte_kv_cache_usage_ratio": "vllm:kv_cache_usage_perc",
    "dyvte_time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
    "dyvte_inter_token_latency_seconds": "vllm:inter_token_latency_seconds",
    "dyvte_request_duration_seconds": "vllm:e2e_request_latency_seconds",
}
ALIASES: Mapping[str, Mapping[str, str]] = {"vllm": VLLM}
KEPT_LABELS = ("model_name", "le")


def aliases(families: Iterable[Metric], names: Mapping[str, str]) -> Iterator[Metric]:
    """A family under its other name for each of ``families`` that has one."""
    for family in families:
        if family.name in names:
            yield _summed(family, names[family.name])


def _summed(family: Metric, name: str) -> Metric:
    """``family`` as ``name``, summed over every label but ``model_name`` and ``le``."""
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in family.samples:
        labels = tuple((key, sample.labels[key]) for key in KEPT_LABELS if key in sample.labels)
        key = (sample.name.removeprefix(family.name), labels)
        sums[key] = sums.get(key, 0.0) + sample.value
    made = Metric(name, family.documentation, family.type)
    for (suffix, labels), value in sums.items():
        made.add_sample(name + suffix, dict(labels), value)
    return made
