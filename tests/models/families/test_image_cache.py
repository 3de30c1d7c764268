"""Rows from the cache are as good as the tower's own, for every native family."""

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
CACHED = EngineConfig(image_cache_memory=1 << 24, kv_cache_memory=1 << 24)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_second_question_takes_its_images_from_the_cache(family: Family, tmp_path: Path) -> None:
    model = Made(family, family.save(tmp_path)).model
    prompt = model.prompt(CONVERSATIONS["two images"])
    assert prompt.images is not None
    known = replace(prompt, image_key=content_key(prompt.images))
    driver = Driver(model, CACHED)
    for exits in (ExitOptions("off"), ExitOptions("fixed", exit_layer=1)):
        name = exits.policy
        driver.add(f"{name}, without", prompt, GREEDY, exits)
        driver.run()
        for ask in ("first", "again"):
            driver.add(f"{name}, {ask}", known, GREEDY, exits)
            driver.run()
            assert driver.tokens(f"{name}, {ask}") == driver.tokens(f"{name}, without")
    hits = [state.image_hit for state in driver.states.values()]
    assert hits == [None, False, True, None, True, True]
