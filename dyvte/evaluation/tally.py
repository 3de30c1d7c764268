"""One setting over all samples: counts while they come in, rates when they are in.

``Tally`` is mutated sample by sample; ``Row`` is what stands in the result files. FLOPs and bytes
are means per sample. Conventions A, B and C are those of `dyvte.flops`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from dyvte.evaluation.answer import Answer
from dyvte.evaluation.intervals import paired_difference
from dyvte.evaluation.scoring import Score
from dyvte.evaluation.settings import Setting
from dyvte.exits.binomial import upper_bound
from dyvte.exits.calibration import CONFIDENCE
from dyvte.flops import DecoderShape, macs_visual


@dataclass(slots=True)
class Tally:
    """Sums over the samples of one setting. ``exits`` counts exit layers, -1 for none."""

    setting: Setting
    shape: DecoderShape
    samples: int = 0
    changed: int = 0
    gained: int = 0
    lost: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    exact: int = 0
    contains: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Answer, reference: Answer) -> None:
        """Count cost, exit and agreement with the answer at no exit."""
        self.samples += 1
        self.changed += answer.token_ids != reference.token_ids
        self.exits[-1 if answer.exit_layer is None else answer.exit_layer] += 1
        flops, shape = answer.flops, self.shape
        full = shape.prefill([answer.prompt_tokens] * shape.num_layers)
        self.sums.update(
            total=flops.total,
            baseline=flops.baseline,
            prefill=answer.prefill,
            prefill_full=full,
            policy=flops.gates,
            macs_visual=sum(macs_visual(shape, v, 1) for v in answer.visual_per_layer),
            macs_visual_full=macs_visual(shape, answer.visual_tokens),
            vision=flops.vision,
            llm_prefill=flops.prefill,
            kv_bytes=answer.kv_bytes,
            kv_bytes_saved=answer.kv_bytes_saved,
        )

    def grade(self, score: Score, reference: Score, metric: str, kind: str) -> None:
        """Count a graded answer beside the one at no exit."""
        right, before = score.right(metric), reference.right(metric)
        self.asked[kind] += 1
        self.right[kind] += right
        self.exact += score.exact
        self.contains += score.contains
        self.gained += right and not before
        self.lost += before and not right

    def row(self) -> Row:
        """The rates."""
        scored = self.asked.total()
        mean = {name: self.sums[name] / max(1, self.samples) for name in self.sums}
        difference = paired_difference(self.gained, self.lost, scored)
        return Row(
            name=self.setting.name,
            series=self.setting.series,
            samples=self.samples,
            scored=scored,
            accuracy=self.right.total() / scored if scored else None,
            exact=self.exact / scored if scored else None,
            contains=self.contains / scored if scored else None,
            accuracy_by_kind={k: self.right[k] / n for k, n in sorted(self.asked.items()) if k},
            accuracy_difference=difference if scored else None,
            changed=self.changed,
            changed_share=self.changed / max(1, self.samples),
            changed_upper=upper_bound(self.changed, self.samples, CONFIDENCE),
            prefill_saved=_saved(mean["prefill"], mean["prefill_full"]),
            request_saved=_saved(mean["total"], mean["baseline"]),
            exits={layer: self.exits[layer] for layer in sorted(self.exits)},
            flops={
                "request": mean["total"],
                "request_full": mean["baseline"],
                "prefill": mean["prefill"],
                "prefill_full": mean["prefill_full"],
                "policy": mean["policy"],
                "macs_visual": mean["macs_visual"],
                "macs_visual_full": mean["macs_visual_full"],
                "llm_prefill": mean["llm_prefill"],
                "llm_prefill_full": mean["prefill_full"],
                "paper": mean["llm_prefill"] + mean["vision"],
                "paper_full": mean["prefill_full"] + mean["vision"],
            },
            kv_bytes=mean["kv_bytes"],
            kv_bytes_saved=mean["kv_bytes_saved"],
        )


def _saved(cost: float, full: float) -> float:
    return 1.0 - cost / full if full else 0.0


@dataclass(slots=True)
class Row:
    """One setting in the results. ``seconds`` are medians per request, if it was timed.

    ``accuracy_difference`` is (value, low, high) against no exit, ``changed_upper`` the exact
    (Clopper-Pearson) one-sided 95 % bound on the share of changed answers. ``flops`` pairs each
    cost with the one at no exit: ``request`` and ``prefill`` count what gates and rules spent,
    ``macs_visual``, ``llm_prefill`` and ``paper`` are conventions A, B and C.
    """

    name: str
    series: str
    samples: int
    scored: int
    accuracy: float | None
    exact: float | None
    contains: float | None
    accuracy_by_kind: dict[str, float]
    accuracy_difference: tuple[float, float, float] | None
    changed: int
    changed_share: float
    changed_upper: float
    prefill_saved: float
    request_saved: float
    exits: dict[int, int]
    flops: dict[str, float]
    kv_bytes: float
    kv_bytes_saved: float
    seconds: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
