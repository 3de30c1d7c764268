"""What only the Qwen-VL families have: grids of any size, three positions a row, deepstack.

Claims of every family are in ``families/``. The reference is the family's own class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import dyvte
from dyvte import ExitOptions, Prompt, PromptError, PruneOptions, SamplingParams
from dyvte.analysis.rows import AttentionRows, WatchedAttention
from dyvte.attention import SdpaAttention
from dyvte.models.grids import Grid, mrope_positions
from dyvte.prompt import IMAGE, VisualSpan
from dyvte.training.collect import Collected, Example, Plan, collect
from tests import tiny
from tests.models.families.family import CONVERSATIONS, Made, picture, says, token_id
from tests.models.families.qwen_vl import FAMILIES, SPECIALS
from tests.training.test_consistency import check

MERGE = 2
INPUTS = 3 * 2 * tiny.PATCH**2
START, END, PAD = (
    token_id(f"<|{n}|>", SPECIALS) for n in ("vision_start", "vision_end", "image_pad")
)
TOLERANCE = 2e-4
OFF = ExitOptions(policy="off")
Grids = Sequence[tuple[int, int, int]]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    family = request.param
    return Made(family, family.save(tmp_path_factory.mktemp(family.name)))


def prompt(seed: int, grids: Grids, before: int = 2, after: int = 3) -> Prompt:
    """Random ids and random pictures in those grids, each between its two tokens."""
    draw = torch.Generator().manual_seed(seed)

    def text(count: int) -> list[int]:
        return torch.randint(20, 270, (count,), generator=draw).tolist()

    ids = [1, *text(before)]
    for index in range(len(grids)):
        ids += [*(text(1) if index else []), START, IMAGE]
        ids += [END] if after or index + 1 < len(grids) else []
    pixels = torch.randn(sum(t * h * w for t, h, w in grids), INPUTS, generator=draw)
    return Prompt([*ids, *text(after)], images_of(pixels, grids) if grids else None)


def images_of(pixels: Any, grids: Any) -> dict[str, Any]:
    return {"pixel_values": pixels, "image_grid_thw": torch.as_tensor(grids)}


def native_inputs(asked: Prompt) -> dict[str, Any]:
    """The same prompt as the class takes it."""
    rows = iter([] if asked.images is None else asked.images["image_grid_thw"].prod(1).tolist())
    ids: list[int] = []
    for token in asked.token_ids:
        ids += [PAD] * (next(rows) // MERGE**2) if token == IMAGE else [token]
    tensor = torch.tensor([ids])
    kinds = {"mm_token_type_ids": (tensor == PAD).int()}
    return {"input_ids": tensor, **kinds, **(asked.images or {})}


GRIDS: dict[str, Grids] = {
    "wide": [(1, 4, 10)],
    "high, then small": [(1, 12, 4), (1, 2, 2)],
    "three": [(1, 4, 6), (1, 6, 4), (1, 8, 8)],
    "frames": [(3, 4, 6)],
}


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("name", GRIDS)
def test_positions_are_the_classes_own(name: str, after: int, made: Made) -> None:
    """Those of the prompt, and those of what is generated behind it."""
    asked = prompt(1, GRIDS[name], after=after)
    given = native_inputs(asked)
    positions, delta = made.reference.model.get_rope_index(
        given["input_ids"], given["mm_token_type_ids"], given["image_grid_thw"]
    )
    adapter = made.model.adapter
    layout = adapter.layout(asked)
    assert adapter.positions(layout, 0, layout.rows).equal(positions[:, 0])
    assert layout.delta == int(delta)
    behind = adapter.positions(layout, layout.rows, layout.rows + 2)
    assert behind.tolist() == [[layout.rows + layout.delta, layout.rows + layout.delta + 1]] * 3


def test_text_alone_counts_on_all_three_axes(made: Made) -> None:
    adapter = made.model.adapter
    layout = adapter.layout(prompt(1, []))
    assert (
        adapter.positions(layout, 1, layout.rows + 2).tolist()
        == [list(range(1, layout.rows + 2))] * 3
    )


def test_images_side_by_side_follow_each_other() -> None:
    spans = (VisualSpan(1, 3), VisualSpan(3, 4))
    found = mrope_positions(5, spans, [Grid(1, 2, 4), Grid(1, 2, 2)], MERGE)
    assert found.tolist() == [[0, 1, 1, 3, 4], [0, 1, 1, 3, 4], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (images_of(torch.zeros(16, INPUTS), [[1, 4, 6]]), "adds up to 24 patches.*has 16"),
        (images_of(torch.zeros(12, INPUTS), [[1, 3, 4]]), r"\[1, 3, 4\].*multiples of 2"),
        (images_of(torch.zeros(16, INPUTS), [[1, -4, -4]]), r"\[1, -4, -4\].*multiples of 2"),
        (images_of(torch.zeros(16, INPUTS), [[0, 4, 4]]), "at least one frame"),
        (images_of(torch.zeros(16, INPUTS), [[1, 2**40, 2**40]]), "patches, pixel_values has 16"),
        (images_of(torch.zeros(16, INPUTS), [1, 4, 4]), r"shape \[3\].*\[images, 3\]"),
        (images_of(torch.zeros(16, INPUTS), [[1.0, 4.0, 4.0]]), "expected integers"),
        (images_of(torch.zeros(16, 8), [[1, 4, 4]]), rf"\[16, 8\], expected \[patches, {INPUTS}\]"),
        ({"pixel_values": torch.zeros(16, INPUTS)}, "need image_grid_thw"),
        ({"image_grid_thw": torch.tensor([[1, 4, 4]])}, "need pixel_values"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Any, what: str, made: Made) -> None:
    with pytest.raises(PromptError, match=what):
        dyvte.generate(made.model, Prompt([1, START, IMAGE, END, 30], images))


def test_rows_that_the_tower_does_not_give_are_told_with_both_numbers(made: Made) -> None:
    adapter = made.model.adapter
    layout = adapter.layout(prompt(1, [(1, 4, 6)]))
    with pytest.raises(PromptError, match="gave 5 rows where 6 were expected"):
        adapter.part(0, layout, [torch.zeros(5, tiny.HIDDEN)])


def test_a_picture_that_the_processor_refuses_is_told(made: Made) -> None:
    narrow = Image.new("RGB", (1, 300))
    with pytest.raises(PromptError, match="aspect ratio"):
        made.model.prompt([says("user", narrow, "what is it?")])


FASTV = PruneOptions(method="fastv", layer=1, ratio=0.6)


@pytest.mark.parametrize("name", GRIDS)
def test_fastv_is_the_class_with_the_others_masked(name: str, made: Made) -> None:
    """What stays is what the full matrix of the layer before says, and only that is seen after.

    Before layer 1 deepstack still has two levels to add: to the rows that stay.
    """
    asked, sampling = prompt(3, GRIDS[name]), SamplingParams(max_tokens=1, return_logits=True)
    [result] = dyvte.generate(made.model, asked, sampling, ExitOptions(policy="off", prune=FASTV))
    [(layer, rows)] = result.kept_visual
    given = native_inputs(asked)
    with torch.inference_mode():
        seen = made.reference(**given, output_attentions=True).attentions[0][0].mean(0)[-1]
    visual = (given["input_ids"][0] == PAD).nonzero()[:, 0]
    assert layer == 1
    assert list(rows) == seen[visual].topk(len(rows)).indices.sort().values.tolist()
    gone = given["input_ids"][0] == PAD
    gone[visual[list(rows)]] = False
    assert result.logits is not None
    torch.testing.assert_close(
        result.logits, made.logits(given, exit_layer=0, leaving=gone), atol=TOLERANCE, rtol=0
    )


def test_pruning_before_an_exit_in_a_mixed_batch_is_each_alone(made: Made) -> None:
    grids = [*GRIDS.values(), []]
    prompts = [prompt(seed, each) for seed, each in enumerate(grids)]
    wishes = [
        ExitOptions(policy="fixed", exit_layer=2, prune=FASTV),
        ExitOptions(policy="gate", aggressiveness=0.5, prune=FASTV),
        ExitOptions(policy="off", prune=PruneOptions(method="divprune")),
        ExitOptions(policy="fixed", exit_layer=1, prune=PruneOptions(method="pyramiddrop")),
        OFF,
    ]
    sampling = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)
    together = dyvte.generate(made.model, prompts, sampling, wishes)
    for each, asked, exits in zip(together, prompts, wishes, strict=True):
        [alone] = dyvte.generate(made.model, asked, sampling, exits)
        assert each.token_ids == alone.token_ids
        assert each.kept_visual == alone.kept_visual
        assert each.kv_tokens_per_layer == alone.kv_tokens_per_layer


def test_labels_are_what_generation_with_forced_exits_does(made: Made) -> None:
    """A last row that is visual stays, and keeps getting its deepstack."""
    asked = [
        prompt(1, [(1, 4, 6)]),
        prompt(2, [(1, 2, 8), (1, 6, 4)]),
        prompt(3, [(1, 4, 4)], after=0),
        prompt(4, [(1, 2, 2)], before=0, after=0),
    ]
    check(made.model, asked, batch=3, layers=range(tiny.LAYERS))


def test_losses_of_a_given_answer_are_the_masked_classes(made: Made) -> None:
    answers = {"one image": (40, 50, 60), "two images": (70, 80)}
    examples = [
        Example(made.model.prompt(CONVERSATIONS[name]), answer) for name, answer in answers.items()
    ]
    found: list[Collected] = list(collect(made.model.adapter, examples, Plan(), batch=2))
    for each, (name, answer) in zip(found, answers.items(), strict=True):
        given, target = made.inputs(CONVERSATIONS[name]), torch.tensor(answer)
        full = made.logits(given, answer[:-1])
        assert each.given is not None
        torch.testing.assert_close(
            each.given.loss_full, F.cross_entropy(full, target), atol=TOLERANCE, rtol=0
        )
        for layer in range(tiny.LAYERS):
            left = made.logits(given, answer[:-1], exit_layer=layer)
            same = (left.argmax(-1) == full.argmax(-1)).float().mean()
            loss = F.cross_entropy(left, target)
            torch.testing.assert_close(each.given.loss_exit[layer], loss, atol=TOLERANCE, rtol=0)
            assert float(each.given.agreement[layer]) == float(same)


@pytest.mark.parametrize("name", ["three", "frames"])
def test_analysis_knows_the_rows_that_stay(name: str, made: Made) -> None:
    """Divprune leaves before the first layer is seen, the exit takes the rest after the second."""
    asked, seen = prompt(5, GRIDS[name]), {}
    layout = made.model.adapter.layout(asked)

    class Places:
        def take(self, rows: AttentionRows) -> None:
            seen[rows.layer] = rows.keys.tolist()

    watching = WatchedAttention(SdpaAttention(), [Places()], positions=layout.positions)
    prune = PruneOptions(method="divprune")
    exits = ExitOptions(policy="fixed", exit_layer=1, prune=prune)
    [result] = dyvte.generate(
        made.model, asked, SamplingParams(max_tokens=1), exits, attention=watching
    )
    [(_, kept)] = result.kept_visual
    visual = [row for row, token in enumerate(layout.token_ids) if token == IMAGE]
    text = sorted({*range(layout.rows)} - {*visual})
    stays = sorted({*text, *(visual[row] for row in kept)})
    assert seen == {0: stays, 1: stays, 2: text, 3: text}


def test_videos_are_refused(made: Made) -> None:
    with pytest.raises(PromptError, match="'video': use text or image"):
        made.model.prompt([{"role": "user", "content": [{"type": "video", "video": "x.mp4"}]}])
    images = {**images_of(torch.zeros(16, INPUTS), [[1, 4, 4]]), "video_grid_thw": [[1, 4, 4]]}
    with pytest.raises(PromptError, match="video_grid_thw"):
        dyvte.generate(made.model, Prompt([1, START, IMAGE, END, 30], images))


def test_grids_follow_the_processors_limits(made: Made) -> None:
    """A picture of any size stays between the fewest and the most rows of the settings."""
    for size in ((2, 3), (40, 30), (900, 500), (60, 300)):
        asked = made.model.prompt([says("user", picture(*size), "?")])
        assert 4 <= made.model.adapter.layout(asked).visual_rows <= 20
