"""The training of the demo model, from nothing to a folder, in stages that can be resumed.

Owns the loop. `train(out)` draws the pictures, trains the tokenizer, runs `STAGES` in order and
writes the model folder; the same command on the same folder goes on where it was stopped.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from dyvte.demo import checkpoint, replicas
from dyvte.demo.bank import Bank, open_bank
from dyvte.demo.bearings import Bearings
from dyvte.demo.checkpoint import Progress
from dyvte.demo.guidance import Guide, PairGuide, TallyGuide
from dyvte.demo.lanes import IGNORE, Draws, Lanes, Pictures
from dyvte.demo.model import WIDTH, build, export
from dyvte.demo.muon import Muon, split_parameters
from dyvte.demo.naming import FACTORS, Naming
from dyvte.demo.places import Places
from dyvte.demo.replicas import average_gradients
from dyvte.demo.sight import Sight
from dyvte.demo.stages import STAGES, Stage
from dyvte.demo.student import AnyGuide, graded, normalised, text_states, visual_rows, word_table
from dyvte.demo.tokenizer import train_tokenizer, word_ids

SEED = 1
SAVE_EVERY_S = 120.0
LOG_EVERY = 20
GUIDED_LAYERS = (2, 3)
PAIRED_LAYERS = (4, 5)
LATE_LAYER = 6
# Mostly the earliest layers that can do without the picture: they have the most to learn from it.
EXIT_LAYERS = (3, 3, 3, 4, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10)
# Far from the numbers of the batches that are asked about.
_GLANCES = 100_000_000
NAMES = ("color", "shape", "size", "row", "column", "word", "tens", "units")


class Tally:
    """Means of what the steps report, since it was last read."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, value: float, count: int = 1) -> None:
        self.sums[name] += value
        self.counts[name] += count

    def read(self) -> str:
        """One line of `name mean` pairs; forgets what it read."""
        line = " ".join(f"{k} {self.sums[k] / self.counts[k]:.3f}" for k in sorted(self.sums))
        self.sums.clear()
        self.counts.clear()
        return line


def _tokenizer(folder: Path, keep: bool) -> PreTrainedTokenizerFast:
    """The run's tokenizer: a resumed run must not see other ids because a wording changed."""
    if (folder / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = train_tokenizer()
    if keep:
        tokenizer.save_pretrained(folder)
    return tokenizer


def _guides(lanes: Lanes, seen: Pictures, exit_layer: int | None) -> dict[int, list[AnyGuide]]:
    """What watches which layer; above the exit there is nothing to look at but text."""
    owners = seen.figures.owners
    guides: dict[int, list[AnyGuide]] = {i: [PairGuide(lanes)] for i in PAIRED_LAYERS}
    for i in GUIDED_LAYERS:
        guides[i] = [Guide(lanes.looks, owners), TallyGuide(lanes, owners)]
    if exit_layer is None or exit_layer >= LATE_LAYER:
        guides[LATE_LAYER] = [Guide(lanes.late, owners)]
    return guides


class Trainer:
    """The model, its helpers and its optimizer, in one of `world` equal processes."""

    def __init__(self, out: Path, rank: int = 0, world: int = 1) -> None:
        self.out, self.rank, self.world = out, rank, world
        self.tokenizer = _tokenizer(out / "tokenizer", keep=rank == 0)
        self.model = build(len(self.tokenizer), SEED)
        self.naming = Naming(WIDTH, [word_ids(self.tokenizer, names) for names in FACTORS])
        self.sight = Sight(self.model.config.vision_config.hidden_size)
        self.places = Places(WIDTH)
        self.bearings = Bearings(WIDTH)
        helpers = nn.ModuleList([self.naming, self.sight, self.places, self.bearings])
        self.modules: dict[str, nn.Module] = {
            **{"model": self.model, "naming": self.naming},
            **{"sight": self.sight, "places": self.places, "bearings": self.bearings},
        }
        pairs = zip(split_parameters(self.model), split_parameters(helpers), strict=True)
        groups = [a + b for a, b in pairs]
        self.parameters = [p for group in groups for p in group]
        self.optimizer = Muon(groups[0], groups[1], 1e-3, rank, world)
        self.tally = Tally()

    @property
    def state_path(self) -> Path:
        return self.out / "state.pt"

    def save(self, stage: Stage, step: int, name: str = "state.pt") -> None:
        if self.rank:
            return
        progress = Progress(stage.name, step)
        checkpoint.save(self.out / name, progress, self.modules, self.optimizer.state_dict())

    def load(self) -> Progress | None:
        if not self.state_path.exists():
            return None
        progress, optimizer = checkpoint.load(self.state_path, self.modules)
        if optimizer is not None:
            self.optimizer.load_state_dict(optimizer)
        return progress

    def enter(self, bank: Bank) -> None:
        """The steps that follow draw from this bank."""
        self.draws = Draws(bank, self.tokenizer, SEED)

    def draw(self, step: int) -> int:
        """Number of the batch that this process draws in a step."""
        return step * self.world + self.rank

    def see(self, stage: Stage, step: int) -> Tensor:
        """Loss of naming the patches of some pictures."""
        _, seen = self.draws.pictures(self.draw(step), stage.pictures)
        return self.look(seen, stage.sight)[1]

    def look(self, seen: Pictures, sighted: bool) -> tuple[Tensor, Tensor]:
        """Visual rows `[B, V, W]`, and the loss of what the tower makes of its patches."""
        self.sight.begin(seen.figures)
        sight = self.sight if sighted else None
        rows = visual_rows(self.model, normalised(seen.pixels), sight)
        shares = seen.figures.shares().flatten()
        loss, hits = self.naming(rows.flatten(0, 1), word_table(self.model), seen.labels, shares)
        for name, hit in zip(NAMES, hits.tolist(), strict=True):
            if hit >= 0:
                self.tally.add(f"p:{name}", hit)
        for name, value in self.sight.seen.items():
            self.tally.add(f"p:{name}", value)
        loss = loss + self.places(rows, seen.figures, seen.ground)
        return rows, loss + 3.0 * self.sight.loss

    def answer(self, stage: Stage, step: int) -> Tensor:
        """Loss of answering, with naming and guidance as far as the stage wants them."""
        number = self.draw(step)
        scenes, seen = self.draws.pictures(number, stage.pictures)
        lanes = self.draws.questions(number, scenes, stage.lanes, stage.mix, stage.talks)
        rows, seen_loss = self.look(seen, stage.sight)
        exit_layer = None
        rng = random.Random(step * 31 + 7)
        if rng.random() < stage.exits:
            exit_layer = rng.choice(EXIT_LAYERS)
        guides = _guides(lanes, seen, exit_layer) if stage.guidance else {}
        self.bearings.begin(lanes, seen.figures, self.places)
        bearings = self.bearings if stage.guidance else None
        states = text_states(self.model, rows, lanes, stage.depth, exit_layer, guides, bearings)
        loss = self._answers(states, lanes, "" if exit_layer is None else "x:")
        loss = loss + stage.naming * seen_loss
        for i, guide in ((i, guide) for i, some in guides.items() for guide in some):
            loss = loss + stage.guidance * guide.loss
            name = "t" if isinstance(guide, TallyGuide) else "g"
            if guide.mass:
                self.tally.add(f"{name}:{i}", guide.mass)
        for name, value in self.bearings.seen.items():
            self.tally.add(f"b:{name}", value)
        loss = loss + stage.guidance * self.bearings.loss
        if stage.glances:
            _, more = self.draws.pictures(number + _GLANCES, stage.glances)
            loss = loss + stage.naming * self.look(more, stage.sight)[1]
        return loss

    def _answers(self, states: Tensor, lanes: Lanes, prefix: str) -> Tensor:
        chosen = lanes.targets != IGNORE
        logits = states[chosen] @ word_table(self.model).T
        losses = F.cross_entropy(logits, lanes.targets[chosen], reduction="none")
        # A description has twenty times the tokens of a number, and would drown it.
        question = lanes.segment[chosen]
        weight = question.bincount()[question].rsqrt()
        loss = (losses * weight).sum() / weight.sum()
        self.tally.add(f"{prefix}loss", loss.item())
        for kind, right in graded(lanes, logits.detach()):
            self.tally.add(prefix + kind, float(right))
        return loss

    def step(self, stage: Stage, step: int) -> None:
        """One update of the weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = stage.rate_at(step)
        loss = self.see(stage, step) if stage.depth == 0 else self.answer(stage, step)
        loss.backward()
        average_gradients(self.parameters, self.world)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def deepen(self, first: int, last: int) -> None:
        """Layers `first`..`last` - 1 start to take part: at first they change nothing."""
        with torch.no_grad():
            for layer in self.model.model.language_model.layers[first:last]:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()


def _run_stage(trainer: Trainer, stage: Stage, first: int) -> None:
    saved = began = time.monotonic()
    for step in range(first, stage.steps):
        trainer.step(stage, step)
        if step % LOG_EVERY == LOG_EVERY - 1 and trainer.rank == 0:
            pace = (time.monotonic() - began) / (step - first + 1)
            head = f"{time.strftime('%H:%M:%S')} {stage.name} {step + 1}/{stage.steps} {pace:.2f}s"
            print(head, trainer.tally.read(), flush=True)
        if time.monotonic() - saved > SAVE_EVERY_S:
            trainer.save(stage, step + 1)
            saved = time.monotonic()
    trainer.save(stage, stage.steps)
    trainer.save(stage, stage.steps, f"after-{stage.name}.pt")


@dataclass(frozen=True, slots=True)
class _Work:
    """One process's share of `train`; a class, so that it can be sent to a fresh process."""

    out: Path
    pictures: int | None
    stages: tuple[Stage, ...]

    def __call__(self, rank: int, world: int) -> None:
        trainer = Trainer(self.out, rank, world)
        progress = trainer.load()
        names = [stage.name for stage in self.stages]
        start = names.index(progress.stage) if progress else 0
        for i, stage in enumerate(self.stages[start:], start):
            first = progress.step if progress and i == start else 0
            depth = self.stages[i - 1].depth if i else 0
            if first == 0 and 0 < depth < stage.depth:
                trainer.deepen(depth, stage.depth)
            trainer.enter(_bank(self.out, stage, self.pictures))
            _run_stage(trainer, stage, first)
        if rank == 0:
            export(trainer.model, trainer.tokenizer, self.out / "model")


def _bank(out: Path, stage: Stage, pictures: int | None, workers: int = 1) -> Bank:
    count = min(pictures or len(stage.scenes), len(stage.scenes))
    return open_bank(out, count, stage.scenes.start, workers)


def train(
    out: Path,
    pictures: int | None = None,
    workers: int = 2,
    stages: tuple[Stage, ...] = STAGES,
) -> Path:
    """Train in the folder `out`, resuming what is there; returns the model folder `out/model`.

    `pictures` bounds how many each stage draws from (None: what the stage says).
    A step takes `stage.pictures` pictures in each of `workers` processes of one thread.
    """
    for stage in stages:
        _bank(out, stage, pictures, workers)
    replicas.run(workers, out / "replicas", _Work(out, pictures, stages))
    return out / "model"
