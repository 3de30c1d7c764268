"""Gates for the demo model, by the paper's rule and the project's own training code.

Collects statuses and labels on unseen pictures, teacher-forced on the right answers, fits one
gate per layer and writes them beside the model. Resumes nothing: it takes minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from dyvte.demo.dataset import samples
from dyvte.exits.files import GateCard, write_gates
from dyvte.model import Model, load
from dyvte.training.collect import Collected, Example, collect
from dyvte.training.fit import Fit, FitConfig, fit

INNER = 256
EXAMPLES = 6_000
# Before this layer nearly every answer still changes, and the paper's label is right by luck on
# questions of yes or no: gates there cost four points of accuracy at aggressiveness 0.5.
FIRST_GATE = 3


def train_gates(
    model_dir: str | Path, out: str | Path | None = None, examples: int = EXAMPLES, seed: int = 0
) -> Fit:
    """Collect, fit and write ``gates/`` (beside the model unless ``out`` says otherwise)."""
    model = load(model_dir, device="cpu", dtype="float32")
    status, label = collect_demo(model, examples, seed)
    layers = range(FIRST_GATE, status.shape[1] - 1)
    result = fit(
        lambda layer: status[:, layer],
        label[:, FIRST_GATE:-1],
        torch.arange(len(status)),
        layers,
        FitConfig(inner=INNER, seed=seed),
    )
    gates = result.gates
    card = GateCard(
        hidden_size=model.adapter.decoder.hidden_size,
        num_layers=model.adapter.decoder.num_layers,
        layers=tuple(sorted(gates.layers)),
        trained_on=f"{examples} questions about unseen demo pictures, paper labels, seed {seed}",
    )
    write_gates(out or Path(model_dir) / "gates", gates, card)
    return result


def collect_demo(model: Model, examples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Statuses ``[N, L, 2d]`` and labels ``[N, L]`` of so many questions."""
    stream = collect(model.adapter, islice(_examples(model, examples, seed), examples))
    rows = list(track(stream, "collecting statuses", total=examples))
    return torch.stack([row.status for row in rows]), torch.stack([_paper(row) for row in rows])


def _paper(row: Collected) -> Tensor:
    assert row.given is not None, "every example has an answer"
    return row.given.paper


def _examples(model: Model, count: int, seed: int) -> Iterator[Example]:
    assert model.tokenizer is not None, "the demo folder has a tokenizer"
    for image, question, answer, _ in samples(count, "gates", skip=seed * EXAMPLES):
        parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        ids = model.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        prompt = model.prompt([{"role": "user", "content": parts}])
        yield Example(prompt, (*ids, model.tokenizer.eos_token_id))
