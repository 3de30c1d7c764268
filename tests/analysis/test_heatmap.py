"""The grid is the strongest weight of each cell of the whole matrix, and NaN where rows left."""

from __future__ import annotations

from typing import Any

import torch

import dyvte
from dyvte.analysis.heatmap import IMAGE_CELLS, TEXT_CELLS, Cells, HeatMap
from dyvte.models.adapter import PromptLayout
from dyvte.params import ExitOptions
from dyvte.prompt import IMAGE, VisualSpan
from tests import tiny
from tests.analysis.watching import matrices, watched


def test_parts_of_a_prompt_get_their_cells() -> None:
    ids = (5,) * 3 + (IMAGE,) * 100 + (5,) * 60
    cells = Cells.of(PromptLayout(ids, (VisualSpan(3, 103),)))
    assert [(part.name, part.stop - part.start) for part in cells.parts] == [
        ("text", 3),
        ("image", IMAGE_CELLS),
        ("text", TEXT_CELLS),
    ]
    assert cells.of_row.tolist() == sorted(cells.of_row.tolist())
    assert set(cells.of_row.tolist()) == set(range(cells.count))


def test_neighbouring_images_are_parts_of_their_own() -> None:
    ids = (IMAGE,) * 4
    cells = Cells.of(PromptLayout(ids, (VisualSpan(0, 2), VisualSpan(2, 4))))
    assert [part.name for part in cells.parts] == ["image", "image"]


def test_a_cell_is_the_strongest_weight_in_it(
    tiny_model: dyvte.Model, reference: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("dyvte.analysis.heatmap.IMAGE_CELLS", 2)
    prompt = tiny.prompt(4)
    cells = Cells.of(tiny_model.adapter.layout(prompt))
    heat = HeatMap(cells, [0, 2])
    watched(tiny_model, prompt, heat, budget=1)
    for layer in (0, 2):
        matrix = matrices(reference, prompt)[layer]
        expected = torch.zeros(cells.count, cells.count)
        for i, row in enumerate(matrix):
            for j, weight in enumerate(row):
                at = cells.of_row[i], cells.of_row[j]
                expected[at] = max(expected[at], weight)
        torch.testing.assert_close(heat.grids[layer], expected, rtol=1e-5, atol=1e-6)


def test_cells_of_an_image_that_left_are_nan(tiny_model: dyvte.Model) -> None:
    prompt = tiny.prompt(4)
    heat = HeatMap(Cells.of(tiny_model.adapter.layout(prompt)), [0, 3])
    watched(tiny_model, prompt, heat, exits=ExitOptions(policy="fixed", exit_layer=1))
    image = next(part for part in heat.cells.parts if part.name == "image")
    inside = slice(image.start, image.stop)
    assert not heat.grids[0].isnan().any()
    assert heat.grids[3][inside].isnan().all()
    assert heat.grids[3][:, inside].isnan().all()
    assert not heat.grids[3][: image.start, : image.start].isnan().any()
