"""What a request may ask for: how to sample, and how deep its image goes.

Frozen dataclasses that check themselves; what the model can grant (does it have gates? how many
layers?) is decided later, in ``dyvte.exits.resolve``. Knows no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

from dyvte.checks import above, at_least, between, number, whole
from dyvte.errors import OptionError
from dyvte.structured import StructuredOutput

MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 100.0  # as OpenAI has it

# Settings that a policy which decides nothing cannot heed.
MEANINGLESS = {
    "fixed": ("aggressiveness", "min_layer", "max_layer", "max_risk"),
    "off": ("aggressiveness", "min_layer", "max_layer", "max_risk"),
    "vtw": ("aggressiveness", "max_layer", "max_risk"),
}

T = TypeVar("T")


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"  # end-of-sequence token, stop token or stop string
    LENGTH = "length"  # max_tokens or the model's context is used up
    ABORT = "abort"  # the caller went away
    ERROR = "error"  # the sequence's own step raised


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Names and defaults are OpenAI's where OpenAI has one.

    ``max_tokens`` None is as many as the context holds, 0 none. ``temperature`` 0 is greedy and
    exact.
    ``seed`` makes a sampled result repeatable whatever else runs in the batch. ``stop`` holds
    strings (the text ends before them), ``stop_token_ids`` ids (not returned). ``logprobs`` is
    the number of alternatives to report per token (0: the chosen one only), ``prompt_logprobs``
    the same for the tokens of a prompt without images. ``return_logits``
    keeps the float32 logits of every chosen token in the offline result; both are the model's own,
    before bias and penalties. ``logit_bias`` maps ids to what is added to their logits.
    The penalties are those of ``dyvte.penalties``. ``structured_output`` is the form that the text
    must have; the answer ends when nothing can follow, even before ``min_tokens``.
    """

    max_tokens: int | None = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    return_logits: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    structured_output: StructuredOutput | None = None

    def __post_init__(self) -> None:
        stop: object = self.stop
        if isinstance(stop, str):
            object.__setattr__(self, "stop", (stop,))
        elif stop is None:
            object.__setattr__(self, "stop", ())
        else:
            object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        if self.max_tokens is not None:
            at_least("max_tokens", self.max_tokens, 0)
        between("temperature", self.temperature, 0.0, 2.0)
        between("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise OptionError("top_p", "must be above 0 (use temperature 0 for greedy)")
        at_least("top_k", self.top_k, 0)
        between("min_p", self.min_p, 0.0, 1.0)
        if self.seed is not None:
            whole("seed", self.seed)
        at_least("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise OptionError(
                "min_tokens", f"{self.min_tokens} exceeds max_tokens {self.max_tokens}"
            )
        at_least("n", self.n, 1)
        for name, count in (
            ("top_logprobs", self.logprobs),
            ("prompt_logprobs", self.prompt_logprobs),
        ):
            if count is not None and not 0 <= count <= MAX_TOP_LOGPROBS:
                raise OptionError(name, f"must be 0..{MAX_TOP_LOGPROBS}, not {count}")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise OptionError("stop", "each stop must be a non-empty string")
        between("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        between("presence_penalty", self.presence_penalty, -2.0, 2.0)
        above("repetition_penalty", self.repetition_penalty, 0.0)
        object.__setattr__(self, "logit_bias", _bias(self.logit_bias))
        if self.structured_output is not None and self.ignore_eos:
            raise OptionError("ignore_eos", "has no meaning with a structured output, which ends")

    @property
    def greedy(self) -> bool:
        """True if the highest logit is taken, without a random number."""
        return self.temperature == 0.0

    @property
    def adjusts(self) -> bool:
        """True if the logits are changed before a token is chosen."""
        penalties = (self.frequency_penalty, self.presence_penalty, self.repetition_penalty)
        return bool(self.logit_bias) or penalties != (0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """Which visual tokens leave before the exit, and where.

    ``layer`` is the first layer that runs without the pruned tokens; ``stages`` lists
    ``(layer, share kept)`` for the staged methods.
    """

    method: str
    layer: int | None = None
    ratio: float | None = None
    stages: tuple[tuple[int, float], ...] | None = None

    @classmethod
    def of(cls, value: PruneOptions | Mapping[str, Any]) -> PruneOptions:
        """Accept the dataclass itself or a mapping with the same keys, checked."""
        return value if isinstance(value, PruneOptions) else _from_mapping(cls, value, "prune")

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or not self.method:
            raise OptionError("prune.method", "must be the name of a pruning method")
        if self.layer is not None:
            at_least("prune.layer", self.layer, 0)
        if self.ratio is not None:
            between("prune.ratio", self.ratio, 0.0, 1.0)
        if self.stages is not None:
            object.__setattr__(self, "stages", _stages(self.stages))


@dataclass(frozen=True, slots=True)
class ExitOptions:
    """After which layer the visual tokens of a prompt leave, and who decides.

    ``policy`` "gate" asks the model's gates: layer l fires iff
    ``logit_exit - logit_keep > log((1 - a) / a)`` with ``a = aggressiveness`` (None: 0.5, the
    paper's argmax), inside ``min_layer..max_layer`` only. "fixed" exits after ``exit_layer``
    (0-based; the layers 0..exit_layer see the image). "off" never exits. "state" fires like a
    gate, by what the model itself shows (None: the promise of the preset ``balanced``); "vtw"
    exits at the layer that its calibration found, not before ``min_layer``. ``max_risk`` is
    turned into an aggressiveness by a calibration.
    """

    policy: str = "gate"
    aggressiveness: float | None = None
    exit_layer: int | None = None
    min_layer: int | None = None
    max_layer: int | None = None
    prune: PruneOptions | Mapping[str, Any] | None = None
    max_risk: float | None = None

    @classmethod
    def of(cls, value: ExitOptions | Mapping[str, Any]) -> ExitOptions:
        """Accept the dataclass itself or a mapping with the same keys, checked."""
        return value if isinstance(value, ExitOptions) else _from_mapping(cls, value, "")

    def __post_init__(self) -> None:
        if not isinstance(self.policy, str) or not self.policy:
            raise OptionError("policy", "must be the name of an exit policy")
        self._check_ranges()
        self._check_fit()
        if self.prune is not None:
            object.__setattr__(self, "prune", PruneOptions.of(self.prune))

    def _check_ranges(self) -> None:
        a = self.aggressiveness
        if a is not None:
            number("aggressiveness", a)
            # NaN is allowed on purpose: it compares false everywhere, so it keeps the image.
            if not math.isnan(a) and not 0.0 <= a <= 1.0:
                raise OptionError("aggressiveness", f"must be between 0 and 1, not {a}")
        if self.max_risk is not None:
            between("max_risk", self.max_risk, 0.0, 1.0)
        for name in ("exit_layer", "min_layer", "max_layer"):
            value = getattr(self, name)
            if value is not None:
                at_least(name, value, 0)
        if self.min_layer is not None and self.max_layer is not None:
            if self.min_layer > self.max_layer:
                raise OptionError(
                    "min_layer", f"{self.min_layer} is above max_layer {self.max_layer}"
                )

    def _check_fit(self) -> None:
        if self.policy == "fixed" and self.exit_layer is None:
            raise OptionError("exit_layer", 'is required with policy "fixed"')
        if self.policy != "fixed" and self.exit_layer is not None:
            raise OptionError("exit_layer", f'needs policy "fixed", not "{self.policy}"')
        for name in MEANINGLESS.get(self.policy, ()):
            if getattr(self, name) is not None:
                raise OptionError(name, f'has no meaning with policy "{self.policy}"')
        if self.max_risk is not None:
            for name in ("aggressiveness", "min_layer", "max_layer", "prune"):
                if getattr(self, name) is not None:
                    raise OptionError(
                        "max_risk",
                        f"cannot be combined with {name}: the measured risk holds without it",
                    )


def _from_mapping(cls: type[T], value: Mapping[str, Any], prefix: str) -> T:
    dot = f"{prefix}." if prefix else ""
    if not isinstance(value, Mapping):
        raise OptionError(prefix or "exits", "must be an object with named settings")
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for key in value:
        if key not in known:
            raise OptionError(f"{dot}{key}", f"is not known; known are {', '.join(sorted(known))}")
    return cls(**value)


def _bias(value: object) -> dict[int, float]:
    """A copy, checked; ids in order."""
    if not isinstance(value, Mapping):
        raise OptionError("logit_bias", "must map token ids to numbers")
    for token, bias in value.items():
        at_least("logit_bias", token, 0)
        between("logit_bias", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
    return {token: float(value[token]) for token in sorted(value)}


def _stages(value: object) -> tuple[tuple[int, float], ...]:
    """Pairs of a layer and a share, as tuples; JSON may write a layer as 2.0."""
    what = "prune.stages"
    if not isinstance(value, (list, tuple)) or not value:
        raise OptionError(what, "must be a list with at least one pair [layer, share kept]")
    pairs = []
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise OptionError(what, f"each stage is a pair [layer, share kept], not {pair!r}")
        layer, share = pair
        if isinstance(layer, float) and layer.is_integer():
            layer = int(layer)
        at_least(what, layer, 0)
        number(what, share)  # its range is checked with the rule's own defaults
        pairs.append((layer, float(share)))
    return tuple(pairs)
