"""What rounded weights change: answers and exits of the demo model on pictures that it never saw.

Every question is asked of the plain weights and of each rounded form under each policy. "Changed"
are answers that differ from those of the plain ones; "right" those that match the picture.

    python -m benchmarks.int8_answers --pictures 500 --weights int8 torchao-int8 bnb-int8 bnb-nf4
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import dyvte
from benchmarks.machine import Origin
from dyvte.demo.export import Export, drawn

BATCH = 16
POLICIES = {
    "off": dyvte.ExitOptions(policy="off"),
    "gate 0.1": dyvte.ExitOptions(policy="gate", aggressiveness=0.1),
    "gate 0.5": dyvte.ExitOptions(policy="gate", aggressiveness=0.5),
    "fixed 6": dyvte.ExitOptions(policy="fixed", exit_layer=6),
}


@dataclass(frozen=True, slots=True)
class Said:
    """One answer, the layer its picture left after, and the share of prefill FLOPs saved."""

    text: str
    exit_layer: int | None
    saved: float


@dataclass(frozen=True, slots=True)
class Change:
    """One form of the weights under one policy, over all questions; shares."""

    weights: str
    policy: str
    questions: int
    right_before: float
    right_after: float
    answers_changed: float
    exits_changed: float
    saved_before: float
    saved_after: float

    def __str__(self) -> str:
        return (
            f"{self.weights:<12} {self.policy:<8} "
            f"right {self.right_before:.3f} → {self.right_after:.3f}   answers "
            f"changed {self.answers_changed:.3f}   exit layers changed {self.exits_changed:.3f}   "
            f"prefill FLOPs saved {self.saved_before:.3f} → {self.saved_after:.3f}"
        )


def answers(
    model: dyvte.Model, asked: Sequence[dyvte.Prompt], exits: dyvte.ExitOptions
) -> list[Said]:
    """All questions, greedily."""
    sampling = dyvte.SamplingParams(max_tokens=12, temperature=0)
    said: list[Said] = []
    for start in range(0, len(asked), BATCH):
        for each in dyvte.generate(model, asked[start : start + BATCH], sampling, exits):
            flops = each.flops
            said.append(Said(each.text.strip(), each.exit_layer, flops.saved_ratio))
    return said


def change(
    weights: str,
    policy: str,
    wanted: Sequence[str],
    before: Sequence[Said],
    after: Sequence[Said],
) -> Change:
    """Shares over pairs of answers to the same question."""
    total = len(wanted)
    pairs = list(zip(before, after, strict=True))
    return Change(
        weights=weights,
        policy=policy,
        questions=total,
        right_before=sum(a.text == b for a, b in zip(before, wanted, strict=True)) / total,
        right_after=sum(a.text == b for a, b in zip(after, wanted, strict=True)) / total,
        answers_changed=sum(a.text != b.text for a, b in pairs) / total,
        exits_changed=sum(a.exit_layer != b.exit_layer for a, b in pairs) / total,
        saved_before=sum(a.saved for a in before) / total,
        saved_after=sum(a.saved for a in after) / total,
    )


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8_answers", description=__doc__)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--skip", type=int, default=0, help="leave out the split's first ones")
    parser.add_argument("--weights", nargs="+", default=["int8"], help="rounded forms")
    parser.add_argument("--json", type=Path, help="write the shares with their provenance")
    args = parser.parse_args()
    command = ["python", "-m", "benchmarks.int8_answers", *sys.argv[1:]]
    origin = Origin.here(command, args.skip, "cpu")
    print(origin, flush=True)
    forms = ["auto", *args.weights]
    models = [dyvte.load("demo", dtype="float32", weights=form) for form in forms]
    prompts, wanted = [], []
    for _, picture, ((question,),) in drawn(Export("test", args.pictures, args.skip)):
        text = {"type": "text", "text": question.text}
        content = [{"type": "image", "image": picture}, text]
        prompts.append(models[0].prompt([{"role": "user", "content": content}]))
        wanted.append(question.answer)
    changes = []
    for policy, exits in POLICIES.items():
        before, *others = [answers(model, prompts, exits) for model in models]
        for form, after in zip(args.weights, others, strict=True):
            changes.append(change(form, policy, wanted, before, after))
            print(changes[-1], flush=True)
    if args.json:
        figures = {"provenance": origin.as_json(), "changes": [asdict(each) for each in changes]}
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
