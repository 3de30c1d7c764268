"""A second question takes the rows of its images over, in every native family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dyvte import ExitOptions, SamplingParams
from dyvte.engine.build import EngineConfig
from dyvte.engine.image_cache import content_key
from tests.engine.driver import Driver
from tests.models.families.everyone import FAMILIES
from tests.models.families.family import CONVERSATIONS, Family, Made

GREEDY = SamplingParams(max_tokens=4, min_tokens=4, temperature=0)
CACHED = EngineConfig(prefix_cache_memory=1 << 24, kv_cache_memory=1 << 24)
EXITS = ("off", 0, 1, 2, "off", 0)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_second_question_takes_its_images_rows_from_the_cache(
    family: Family, tmp_path: Path
) -> None:
    """Shallow, then deeper, then shallow again. What a layer still adds to visual rows (deepstack)
    keeps a prefix that left before it from being taken over."""
    model = Made(family, family.save(tmp_path)).model
    prompt = model.prompt(CONVERSATIONS["two images"])
    assert prompt.images is not None
    known = replace(prompt, image_key=content_key(prompt.images))
    for first, *later in (EXITS, EXITS[1:]):
        driver = Driver(model, CACHED)
        hits = []
        for number, exit_layer in enumerate((first, *later)):
            options = ExitOptions("off")
            if isinstance(exit_layer, int):
                options = ExitOptions("fixed", exit_layer=exit_layer)
            names = f"{number}, without", f"{number}, with"
            for name, asked in zip(names, (prompt, known), strict=True):
                driver.add(name, asked, GREEDY, options)
                driver.run()
            without, cached = (driver.core.stats_of(driver.states[name]) for name in names)
            assert driver.tokens(names[1]) == driver.tokens(names[0])
            assert cached.tokens_per_layer == without.tokens_per_layer
            assert cached.kv_tokens_per_layer == without.kv_tokens_per_layer
            hits.append(cached.prefix_hit)
        misses = 3 if family.name == "qwen3_vl" and first == 0 else 1
        assert hits == [False] * misses + [True] * (len(hits) - misses)
