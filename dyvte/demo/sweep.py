"""What the exits cost and save on the demo model: accuracy against FLOPs over aggressiveness.

Runs unseen questions through the public library, once per setting, and tabulates accuracy per
kind of question, the share of LLM prefill FLOPs saved and where the visual tokens left.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from rich.progress import Progress

from dyvte.demo.dataset import samples
from dyvte.model import Model, load
from dyvte.offline import Result, generate
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt

SETTINGS = (0.0, 0.25, 0.5, 0.75, 1.0)
BATCH = 50
MAX_TOKENS = 48


@dataclass(slots=True)
class Row:
    """One setting over all questions. ``exits`` counts exit layers, -1 for none."""

    name: str
    questions: int = 0
    right: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    prefill: int = 0
    prefill_full: int = 0
    changed: int = 0

    @property
    def accuracy(self) -> float:
        """Share of right answers over all kinds."""
        return sum(self.right.values()) / max(1, self.questions)

    @property
    def prefill_saved(self) -> float:
        """Share of the LLM's prefill FLOPs that was not run (gates' own cost counted)."""
        return 1.0 - self.prefill / max(1, self.prefill_full)


@dataclass(frozen=True, slots=True)
class Question:
    """A processed question with the answer that is right."""

    prompt: Prompt
    answer: str
    kind: str


def sweep(
    model_dir: str | Path,
    questions: int = 2000,
    settings: Sequence[float] = SETTINGS,
    layers: Sequence[int] = (),
) -> list[Row]:
    """Rows for no exit, each aggressiveness, and each forced exit layer asked for."""
    model = load(model_dir, device="cpu", dtype="float32")
    cases = _questions(model, questions)
    wishes = [("off", ExitOptions(policy="off"))]
    if model.gates is not None:
        wishes += [(f"gate {a:g}", ExitOptions(aggressiveness=a)) for a in settings]
    wishes += [(f"fixed {e}", ExitOptions(policy="fixed", exit_layer=e)) for e in layers]
    rows: list[Row] = []
    reference: list[str] = []
    with Progress() as progress:
        task = progress.add_task("answering", total=len(cases) * len(wishes))
        for name, wish in wishes:
            row, answers = Row(name), []
            for at in range(0, len(cases), BATCH):
                chunk = cases[at : at + BATCH]
                results = _answer(model, chunk, wish)
                for case, result in zip(chunk, results, strict=True):
                    _count(model, row, case, result)
                    answers.append(result.text)
                progress.advance(task, len(chunk))
            reference = reference or answers
            row.changed = sum(a != b for a, b in zip(answers, reference, strict=True))
            rows.append(row)
    return rows


def _questions(model: Model, count: int) -> list[Question]:
    cases = []
    for image, question, answer, kind in samples(count, "test"):
        parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        prompt = model.prompt([{"role": "user", "content": parts}])
        cases.append(Question(prompt, answer, kind))
    return cases


def _answer(model: Model, cases: Sequence[Question], wish: ExitOptions) -> list[Result]:
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0)
    return generate(model, [case.prompt for case in cases], sampling, wish)


def _count(model: Model, row: Row, case: Question, result: Result) -> None:
    row.questions += 1
    row.asked[case.kind] += 1
    row.right[case.kind] += result.text.strip() == case.answer.strip()
    row.exits[-1 if result.exit_layer is None else result.exit_layer] += 1
    shape = model.adapter.decoder
    row.prefill += result.flops.prefill + result.flops.gates
    row.prefill_full += shape.prefill([result.stats.prompt_tokens] * shape.num_layers)


def as_markdown(rows: Sequence[Row]) -> str:
    """A table with one line a setting: overall, saved, changed, then each kind."""
    kinds = sorted(rows[0].asked)
    head = ["exit", "accuracy", "prefill FLOPs saved", "answers changed", *kinds]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [
            row.name,
            f"{row.accuracy:.1%}",
            f"{row.prefill_saved:.1%}",
            f"{row.changed / max(1, row.questions):.1%}",
            *(f"{row.right[kind] / max(1, row.asked[kind]):.0%}" for kind in kinds),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def histogram(rows: Sequence[Row], num_layers: int) -> str:
    """A table of how many questions left after each layer (last column: never)."""
    head = ["exit", *(str(layer) for layer in range(num_layers)), "none"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        counts = [row.exits[layer] for layer in range(num_layers)]
        cells = [row.name, *(str(c or "") for c in counts), str(row.exits[-1] or "")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> str:
    """Every count, with the two ratios."""
    found = []
    for row in rows:
        counts = {
            each.name: dict(value) if isinstance(value, Counter) else value
            for each, value in ((each, getattr(row, each.name)) for each in fields(row))
        }
        found.append(counts | {"accuracy": row.accuracy, "prefill_saved": row.prefill_saved})
    return json.dumps(found, indent=1)
