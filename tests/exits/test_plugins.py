"""What docs/policies.md tells a third party to write works as written, once it is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dyvte
from dyvte import ExitOptions, PruneOptions
from dyvte.errors import ModelError, OptionError
from dyvte.evaluation.settings import Setting
from dyvte.evaluation.sharing import shared
from dyvte.exits.plugins import entry_points
from dyvte.exits.resolve import resolve
from tests import tiny
from tests.exits.test_prune import ONE_TOKEN

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def blocks(language: str) -> str:
    """All code of one language on the page, in order."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return "\n".join(found)


def install(folder: Path, name: str, code: str, points: str) -> None:
    """What ``pip install`` leaves behind: a module and its metadata."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def from_toml(text: str) -> str:
    """``[project.entry-points."group"]`` tables as ``entry_points.txt`` has them."""
    ini = re.sub(r'\[project\.entry-points\."(.+?)"\]', r"[\1]", text)
    return re.sub(r'= "(.+)"', r"= \1", ini)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python looks for packages in."""
    monkeypatch.syspath_prepend(str(tmp_path))
    entry_points.cache_clear()
    yield tmp_path
    entry_points.cache_clear()


def test_the_pages_method_and_policy(site: Path, tiny_model: dyvte.Model) -> None:
    install(site, "my_package", blocks("python"), from_toml(blocks("toml")))
    prompts = [tiny.prompt(seed) for seed in (1, 2)]
    loud = ExitOptions(policy="off", prune=PruneOptions("loudest", layer=2, ratio=0.7))
    still = ExitOptions(policy="still", aggressiveness=0.9)
    pruned, exited = dyvte.generate(tiny_model, prompts, ONE_TOKEN, [loud, still])
    [(layer, rows)] = pruned.kept_visual
    assert (layer, len(rows)) == (2, 3)
    assert exited.exit_layer is not None
    assert exited.stats.policy == "still"
    assert "still" in tiny_model.grants.policies
    late = ExitOptions(policy="still", aggressiveness=0.9, min_layer=2)
    assert tiny.alone(tiny_model, prompts[0], sampling=ONE_TOKEN, exits=late).exit_layer == 2
    with pytest.raises(OptionError, match="does not keep to"):
        resolve(ExitOptions(policy="still", max_layer=1), tiny_model.grants)


OTHER_NAMES = """
from dyvte.exits.policy import Fixed
from dyvte.exits.prune.fastv import FastV
from dyvte.exits.prune.rule import single_stage


class Never(Fixed):
    def may_fire(self, layer): return False


def never(options, grants): return Never(1)
def half(options, num_layers): return FastV(single_stage(options, default_layer=2))
"""


def test_a_policy_is_called_as_it_was_asked_for(site: Path, tiny_model: dyvte.Model) -> None:
    """The class's own name went into replies and metrics: a label outside their closed sets."""
    points = "[dyvte.exit_policies]\nmine = other:never\n[dyvte.prune_methods]\nhalf = other:half\n"
    install(site, "other", OTHER_NAMES, points)
    asked = tiny.prompt(1)
    exits = ExitOptions(policy="mine", prune=PruneOptions("half"))
    stats = tiny.alone(tiny_model, asked, sampling=ONE_TOKEN, exits=exits).stats
    assert (stats.policy, stats.prune) == ("mine", "half")


def test_an_evaluation_runs_what_is_derived_from_ours(site: Path, tiny_model: dyvte.Model) -> None:
    """It was answered as the class that it is derived from, which may decide otherwise."""
    install(site, "other", OTHER_NAMES, "[dyvte.exit_policies]\nmine = other:never\n")
    settings = [Setting("mine", "mine", ExitOptions(policy="mine"))]
    [[answer]] = shared(tiny_model, [tiny.prompt(1)], settings, ONE_TOKEN)
    assert answer.exit_layer is None


def test_a_broken_package_is_named(site: Path) -> None:
    install(site, "broken", "raise ImportError('no')", "[dyvte.prune_methods]\nx = broken:X\n")
    with pytest.raises(ModelError, match="broken:X cannot be loaded"):
        entry_points("dyvte.prune_methods")
