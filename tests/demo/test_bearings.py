"""What training tells text rows: whom they name, whom they compare, whom they count."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from dyvte.demo.bearings import NUMBER_LAYER, PLACE_LAYER, WAY_LAYERS, Bearings, frames_of_owners
from dyvte.demo.guidance import REST, TallyGuide
from dyvte.demo.lanes import Lanes, Packer, prompt_prefix
from dyvte.demo.model import VISUAL_ROWS, WIDTH
from dyvte.demo.places import Places
from dyvte.demo.question import Question, short, spot
from dyvte.demo.sight import Figures

# Object 1 fills the first four patches, object 2 the last two; frames say where their middles are.
OWNERS = torch.zeros(1, VISUAL_ROWS, dtype=torch.int64)
OWNERS[0, :4], OWNERS[0, -2:] = 1, 2
MIDDLES = torch.tensor([[0.0, 0, 0], [0.2, 0.1, 0.3], [0.9, 0.8, 0.1]])


def _relation() -> Question:
    text = "is the red star above the blue heart?"
    spots = spot(text, "red star", 1) + spot(text, "blue heart", 2)
    return short("relation", text, "yes", (1, 2), spots)


def _count() -> Question:
    return short("count", "how many things?", "2", (1, 2))


@pytest.fixture
def figures() -> Figures:
    centers = Places(WIDTH).centers
    frames = (MIDDLES[OWNERS] - centers) * (OWNERS > 0)[..., None]
    return Figures(OWNERS, torch.zeros(()), frames, torch.zeros(()))


@pytest.fixture
def lanes(tokenizer: PreTrainedTokenizerFast) -> Lanes:
    packer = Packer(tokenizer, 1, 1, prompt_prefix(tokenizer))
    assert packer.add(0, _count())
    assert packer.add(0, _relation())
    return packer.lanes()


def test_every_object_has_one_place(figures: Figures) -> None:
    places = frames_of_owners(figures, Places(WIDTH).centers)
    torch.testing.assert_close(places[0, 1:3], MIDDLES[1:])


def test_small_objects_weigh_more_per_patch_and_less_in_all(figures: Figures) -> None:
    shares = figures.shares()[0]
    assert shares[-1] > shares[0]
    assert shares[-2:].sum() < shares[:4].sum()


def test_an_answer_looks_back_at_the_words_that_name_its_objects(lanes: Lanes) -> None:
    row = int((lanes.pairs[0, 0, :, 0] >= 0).nonzero()[0])
    first, second = lanes.pairs[0, 0, row].tolist()
    assert lanes.names[0, 0, [first, second]].tolist() == [1, 2]
    assert first < second < row


def test_right_bearings_cost_nothing(lanes: Lanes, figures: Figures) -> None:
    bearings = Bearings(WIDTH)
    bearings.begin(lanes, figures, Places(WIDTH))
    with torch.no_grad():
        bearings.place.weight.zero_()
        bearings.place.bias.copy_(MIDDLES[1:].mean(0))
        bearings.way.weight.zero_()
        bearings.way.bias.copy_(MIDDLES[1] - MIDDLES[2])
    states = torch.randn(*lanes.tokens.shape, WIDTH)
    for layer in {PLACE_LAYER, *WAY_LAYERS, NUMBER_LAYER}:
        bearings.watch(layer, states)
    assert bearings.seen["way"] == pytest.approx(0, abs=1e-6)
    half = (MIDDLES[1] - MIDDLES[2]).abs().mean() / 2
    assert bearings.seen["place"] == pytest.approx(float(half))
    assert set(bearings.seen) == {"place", "way", "number"}


def test_equal_shares_of_attention_count_objects(lanes: Lanes) -> None:
    guide = TallyGuide(lanes, OWNERS)
    start, rows = 3, lanes.tokens.shape[-1]
    keys = start + VISUAL_ROWS + rows
    mask = torch.ones(1, 1, rows, keys, dtype=torch.bool)
    # One key dimension: its value is the score. Four patches share what two do, the rest is text.
    scores = torch.full((keys,), -1e3)
    scores[start : start + 4], scores[start + VISUAL_ROWS - 2 : start + VISUAL_ROWS] = (
        math.log(1 / 4),
        math.log(1 / 2),
    )
    scores[0] = math.log(REST)
    guide.watch(torch.ones(1, 6, rows, 1), scores.expand(1, 6, keys)[..., None], mask, start)
    assert float(guide.loss) == pytest.approx(0, abs=1e-4)
    flat = torch.zeros(1, 6, keys, 1)
    guide.watch(torch.ones(1, 6, rows, 1), flat, mask, start)
    assert float(guide.loss) > 0.5
