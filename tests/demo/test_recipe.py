"""Training: a few steps of each sort run, learn, can be resumed, and end in a loadable folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from dyvte.demo.bank import open_bank
from dyvte.demo.dataset import SPLITS, samples
from dyvte.demo.evaluate import evaluate
from dyvte.demo.muon import orthogonal
from dyvte.demo.recipe import Trainer, train
from dyvte.demo.stages import Stage

SEE = Stage("see", steps=3, rate=2e-3, pictures=2, depth=0, warmup=1, sight=True)
READ = Stage("read", steps=3, rate=2e-3, pictures=2, depth=2, lanes=1, warmup=1)
EXITS = Stage("exits", steps=1, rate=1e-3, pictures=2, depth=12, lanes=1, exits=1.0)
BANK = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    return train(out, pictures=BANK, workers=1, stages=(SEE, READ, EXITS))


def test_training_ends_in_a_model_folder(folder: Path) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert all(p.isfinite().all() for p in model.parameters())
    assert AutoProcessor.from_pretrained(folder).tokenizer.image_token == "<image>"


def test_a_finished_run_is_resumed_at_its_end(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    train(folder.parent, pictures=BANK, workers=1, stages=(SEE, READ, EXITS))
    assert (folder / "model.safetensors").read_bytes() == before


def test_evaluation_counts_every_question(folder: Path) -> None:
    result = evaluate(folder, pictures=3, questions=4)
    assert result.questions["all"] == 12
    assert set(result.accuracy) == {"none", *map(str, range(11))}


@pytest.mark.parametrize("stage", [SEE, READ])
def test_repeating_a_batch_lowers_its_loss(folder: Path, stage: Stage) -> None:
    trainer = Trainer(folder.parent)
    trainer.enter(open_bank(folder.parent, BANK))
    losses = []
    for _ in range(4):
        loss = trainer.see(stage, 0) if stage.depth == 0 else trainer.answer(stage, 0)
        losses.append(loss.item())
        trainer.step(stage, 0)
    assert losses[-1] < losses[0]


def test_orthogonal_flattens_the_spectrum() -> None:
    stack = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(stack))
    assert values.min() > 0.3
    assert values.max() < 1.4


def test_rates_rise_stay_and_fall() -> None:
    stage = Stage("s", steps=100, rate=1.0, pictures=1, depth=1, warmup=10, decay=0.5)
    rates = [stage.rate_at(step) for step in (0, 9, 49, 99)]
    assert rates[0] < rates[1] == rates[2] == 1.0
    assert rates[3] < 0.15


@pytest.mark.parametrize("bad", [{"steps": 0}, {"pictures": 0}, {"exits": 1.5}])
def test_impossible_stages_are_refused(bad: dict[str, float]) -> None:
    fields = {"steps": 1, "rate": 1e-3, "pictures": 1, "depth": 1, **bad}
    with pytest.raises(ValueError, match="stage 's'"):
        Stage("s", **fields)  # type: ignore[arg-type]


def test_splits_do_not_meet() -> None:
    firsts = {split: next(samples(1, split)) for split in SPLITS}
    assert len({(s.question, s.picture.tobytes()) for s in firsts.values()}) == len(SPLITS)
    again = next(samples(1, "test"))
    assert again.picture.tobytes() == firsts["test"].picture.tobytes()
    with pytest.raises(ValueError, match="tset"):
        next(samples(1, "tset"))
