"""One sweep: every setting on every sample, chunk by chunk, so that memory stays bounded.

Takes samples as `dyvte.data` reads them and gives rows; files and figures are others' work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from dyvte.data import Sample, Skips, loaded
from dyvte.engine.build import build_core
from dyvte.engine.events import EngineRequest
from dyvte.errors import OptionError, PromptError
from dyvte.evaluation.answer import Answer
from dyvte.evaluation.scoring import Score, check_metric, score
from dyvte.evaluation.settings import FIELD, Setting
from dyvte.evaluation.sharing import shared, straight
from dyvte.evaluation.stopwatch import timed
from dyvte.evaluation.tally import Row, Tally
from dyvte.exits.resolve import resolve
from dyvte.model import Model
from dyvte.params import SamplingParams
from dyvte.prompt import Prompt

Case = tuple[Sample, Prompt]


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """How to sweep. ``settings[0]`` is no exit, which all others are compared with.

    ``batch`` samples are answered at a time; ``timed`` samples are timed in ``rounds`` rounds;
    ``share`` generates each distinct outcome once (`sharing`).
    """

    settings: Sequence[Setting]
    sampling: SamplingParams
    metric: str = "auto"
    share: bool = True
    batch: int = 32
    timed: int = 16
    rounds: int = 3

    def __post_init__(self) -> None:
        check_metric(self.metric)


@dataclass(slots=True)
class Progress:
    """What a sweep calls as it goes on: after a chunk, for an answer, after a timed prompt."""

    answered: Callable[[int], None] = lambda count: None
    answer: Callable[[dict[str, Any]], None] | None = None
    clocked: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Swept:
    """The rows, one a setting, and how many prompts were timed."""

    rows: list[Row]
    timed: int
    skips: Skips = field(default_factory=Skips)


def sweep(
    model: Model,
    samples: Iterable[Sample],
    config: SweepConfig,
    skips: Skips,
    progress: Progress | None = None,
) -> Swept:
    """Answer, compare, grade and time. Rows that this model cannot take go to ``skips``.

    Raises OptionError for a setting that this model cannot grant.
    """
    told = progress or Progress()
    for setting in config.settings:
        check_granted(model, setting)
    tallies = [Tally(setting, model.adapter.decoder) for setting in config.settings]
    cases = _cases(model, samples, config, skips)
    clocked: list[Prompt] = []
    answers = shared if config.share else straight
    while chunk := list(islice(cases, config.batch)):
        prompts = [prompt for _, prompt in chunk]
        table = answers(model, prompts, config.settings, config.sampling)
        _count(chunk, table, tallies, config.metric, told)
        clocked += prompts[: config.timed - len(clocked)]
        told.answered(len(chunk))
    rows = [tally.row() for tally in tallies]
    for row, setting in zip(rows, config.settings, strict=True):
        row.options = {k: v for k, v in asdict(setting.options).items() if v is not None}
    rounds, told_clock = config.rounds, told.clocked
    seconds = timed(model, clocked, config.settings, config.sampling, rounds, told_clock)
    for row, own in zip(rows, seconds, strict=bool(clocked)):
        row.seconds = own
    return Swept(rows, len(clocked), skips)


def check_granted(model: Model, setting: Setting) -> None:
    """Raise OptionError if this model cannot do this."""
    try:
        for conversation in (False, True):
            resolve(setting.of(conversation), model.grants, conversation)
    except OptionError as error:
        raise OptionError(FIELD, f"{setting.name!r}: {error.field} {error.message}") from None


def _cases(
    model: Model, samples: Iterable[Sample], config: SweepConfig, skips: Skips
) -> Iterator[Case]:
    """Prompts of the samples that this model can take, with room for an answer."""
    core = build_core(model)
    for sample, messages in loaded(samples, skips):
        try:
            prompt = model.prompt(messages)
            core.check(
                EngineRequest(sample.id, prompt, config.sampling, config.settings[0].options)
            )
        except PromptError as error:
            skips.add(sample.line, str(error))
            continue
        yield sample, prompt


def _count(
    chunk: Sequence[Case],
    table: Sequence[Sequence[Answer]],
    tallies: Sequence[Tally],
    metric: str,
    told: Progress,
) -> None:
    for i, (sample, _) in enumerate(chunk):
        reference = table[0][i]
        before = _score(sample, reference)
        for tally, row in zip(tallies, table, strict=True):
            answer = row[i]
            tally.add(answer, reference)
            now = before if answer.text == reference.text else _score(sample, answer)
            if now is not None and before is not None:
                tally.grade(now, before, metric, sample.kind)
            if told.answer is not None:
                told.answer(
                    {
                        "id": sample.id,
                        "setting": tally.setting.name,
                        "text": answer.text.strip(),
                        "exit_layer": answer.exit_layer,
                        "changed": answer.token_ids != reference.token_ids,
                        "right": None if now is None else now.right(metric),
                        "saved_ratio": round(answer.flops.saved_ratio, 6),
                    }
                )


def _score(sample: Sample, answer: Answer) -> Score | None:
    """None where no right answer is known."""
    if not sample.answers:
        return None
    return score(answer.text, sample.answers, sample.choices)
