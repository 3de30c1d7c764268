"""Grammars compiled for one model's vocabulary, kept while they are in use, under limits.

A hostile schema or expression must cost little: its size is bounded before it comes here, the
library's own budgets bound the work and the states of a grammar, and the least recently used
grammar leaves when there are too many.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from llguidance import LLMatcher, LLParserLimits

from dyvte.constraints.lark import lark_of
from dyvte.constraints.matcher import MatcherConstraint, next_mask
from dyvte.constraints.vocabulary import JSON_BYTES, Vocabulary
from dyvte.errors import GrammarFailed, OptionError
from dyvte.model import Model
from dyvte.structured import FIELD, StructuredOutput

MOST_KEPT = 64
MOST_WORKERS = 4
LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    max_items_in_row=8_000,  # 512 optional properties need 2,100, 400 alternatives 4,400
    step_lexer_fuel=200_000,
    step_max_items=20_000,  # about 30 ms at worst
    max_lexer_states=20_000,  # 1 to 2 kB each
    max_grammar_size=200_000,
    verbose_errors=False,
)


class ModelGrammars:
    """Implements ``dyvte.constraints.constraint.Grammars`` for one model."""

    def __init__(self, model: Model, most_kept: int = MOST_KEPT) -> None:
        self._model = model
        self._most_kept = most_kept
        self._lock = threading.Lock()
        self._compiled: OrderedDict[StructuredOutput, LLMatcher] = OrderedDict()
        self._vocabulary: Vocabulary | None = None
        count = min(MOST_WORKERS, os.cpu_count() or 1)
        self._workers = ThreadPoolExecutor(count, "constraint")  # threads start when first needed

    def compile(self, wanted: StructuredOutput) -> None:
        """Blocking; the interpreter is free meanwhile. Raises OptionError."""
        self._find(wanted)

    def begin(self, wanted: StructuredOutput) -> MatcherConstraint:
        """A constraint at its grammar's start; compiled in a worker if it is not kept."""
        size = self._model.adapter.decoder.vocab_size
        return MatcherConstraint(lambda: self._find(wanted).deep_copy(), size, self._workers)

    def _find(self, wanted: StructuredOutput) -> LLMatcher:
        with self._lock:
            found = self._compiled.get(wanted)
            if found is not None:
                self._compiled.move_to_end(wanted)
                return found
            vocabulary = self._vocabulary = self._vocabulary or Vocabulary(self._model)
        matcher = _compile(wanted, vocabulary)
        with self._lock:
            self._compiled[wanted] = matcher
            while len(self._compiled) > self._most_kept:
                self._compiled.popitem(last=False)
        return matcher


def _compile(wanted: StructuredOutput, vocabulary: Vocabulary) -> LLMatcher:
    """A matcher at the start. Raises OptionError."""
    _check_bytes(wanted, vocabulary)
    grammar = LLMatcher.grammar_from_lark(lark_of(wanted, vocabulary.leading_space))
    matcher = LLMatcher(vocabulary.tokenizer, grammar, log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise OptionError(FIELD, _said(matcher.get_error()))
    try:
        first = next_mask(matcher.deep_copy(), vocabulary.size)
    except GrammarFailed as error:
        raise OptionError(FIELD, f"allows no answer at all: {error}") from error
    if set(first.nonzero().flatten().tolist()) <= vocabulary.spaces and vocabulary.leading_space:
        raise OptionError(FIELD, "allows no answer at all")
    return matcher


def _check_bytes(wanted: StructuredOutput, vocabulary: Vocabulary) -> None:
    """Refuse now what the tokenizer cannot spell, as far as it can be told in advance."""
    needed = {"json": JSON_BYTES, "choice": frozenset(wanted.text.encode())}.get(wanted.kind)
    missing = sorted((needed or frozenset()) & vocabulary.missing)
    if missing:
        listed = ", ".join(repr(chr(byte)) if byte < 128 else f"0x{byte:02x}" for byte in missing)
        raise OptionError(FIELD, f"this model's tokenizer has no tokens for {listed}")


def _said(error: str) -> str:
    """The library's reason in one line: it speaks of the caller's own text."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith("error:")] or lines[:1]
    reason = (reasons or ["unknown"])[0].removeprefix("error:").strip()
    return f"cannot be compiled: {reason[:300]}"
