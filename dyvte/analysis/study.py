"""All samples, one after the other, into the numbers behind the figures.

Needs memory for one prompt at a time; what is kept of a sample is some floats per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from dyvte.analysis.heatmap import HeatMap
from dyvte.analysis.options import StudyOptions
from dyvte.analysis.prefill import watch
from dyvte.analysis.profile import Layer
from dyvte.analysis.score import OFF, Forced, Grade, forced
from dyvte.data import Sample, Skips, loaded
from dyvte.errors import PromptError
from dyvte.model import Model
from dyvte.params import ExitOptions
from dyvte.prompt import Message, Prompt

WATCHED = frozenset({"weights", "entropy", "exits"})


@dataclass(frozen=True, slots=True)
class Studied:
    """One sample: layers without and with the exit, where it left, and the forced exits."""

    id: str
    kind: str
    without: list[Layer] = field(default_factory=list)
    exited: list[Layer] = field(default_factory=list)
    exit_layer: int | None = None
    forced: Forced | None = None


@dataclass(frozen=True, slots=True)
class HeatPair:
    """The heat-maps of one sample: all rows, and the image gone after ``exit_layer``."""

    sample: str
    question: str
    exit_layer: int
    whole: HeatMap
    cut: HeatMap


@dataclass(slots=True)
class Study:
    """Everything found. ``text_only`` samples were passed over, ``skips`` could not be read."""

    num_layers: int
    options: StudyOptions
    samples: list[Studied] = field(default_factory=list)
    heat: HeatPair | None = None
    text_only: int = 0
    skips: Skips = field(default_factory=Skips)


def study(
    model: Model,
    samples: Iterable[Sample],
    options: StudyOptions,
    grade: Grade,
    skips: Skips | None = None,
    on_sample: Callable[[int], None] = lambda done: None,
) -> Study:
    """Look at up to ``options.limit`` samples with an image; ``on_sample`` hears of each.

    Raises OptionError for an exit that the model cannot do. A prompt that is too long, or a
    picture that is broken, goes to ``skips``.
    """
    found = Study(model.adapter.decoder.num_layers, options, skips=skips or Skips())
    for sample, messages in loaded(samples, found.skips):
        if not sample.pictures:
            found.text_only += 1
            continue
        try:
            prompt = model.prompt(messages)
            found.samples.append(_studied(model, prompt, sample, options, grade))
            if found.heat is None and "heatmap" in options.figures:
                found.heat = _heat(model, prompt, sample, messages)
        except PromptError as error:
            found.skips.add(sample.line, str(error))
            continue
        on_sample(len(found.samples))
        if len(found.samples) >= options.limit:
            break
    return found


def _studied(
    model: Model, prompt: Prompt, sample: Sample, options: StudyOptions, grade: Grade
) -> Studied:
    last = model.adapter.decoder.num_layers - 1
    whole = watch(model, prompt, OFF) if _wants(options, WATCHED) else None
    cut = watch(model, prompt, options.exits) if _wants(options, WATCHED) else None
    tried = None
    if "score" in options.figures:
        layers = range(0, last, options.stride)
        tried = forced(model, prompt, sample, layers, options.max_tokens, grade)
    return Studied(
        id=sample.id,
        kind=sample.kind or "all",
        without=whole.layers if whole else [],
        exited=cut.layers if cut else [],
        exit_layer=cut.exit_layer if cut else None,
        forced=tried,
    )


def _wants(options: StudyOptions, figures: Collection[str]) -> bool:
    return bool(options.figures & set(figures))


def heat_layers(num_layers: int) -> list[int]:
    """Four layers to look at: the first, those at a third and two thirds, the last."""
    last = num_layers - 1
    return sorted({0, last // 3, 2 * last // 3, last})


def _heat(model: Model, prompt: Prompt, sample: Sample, messages: Sequence[Message]) -> HeatPair:
    """The first sample's grids, with the image and with it gone after layer 0."""
    layers = heat_layers(model.adapter.decoder.num_layers)
    gone = ExitOptions(policy="fixed", exit_layer=0)
    whole, cut = watch(model, prompt, OFF, layers).heat, watch(model, prompt, gone, layers).heat
    assert whole is not None, "asked for"
    assert cut is not None, "asked for"
    return HeatPair(sample.id, _question(messages), 0, whole, cut)


def _question(messages: Sequence[Message]) -> str:
    content = messages[-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")
