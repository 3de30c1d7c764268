"""Is an answer right? Exact match, contained, or the choice that it names.

Both sides are normalised alike: NFKC, case folded, number words up to ten as digits, the articles
a, an, the removed, punctuation other than a decimal point or a minus between digits removed,
white space collapsed. Several accepted answers: one suffices. Knows strings only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from dyvte.errors import OptionError

METRICS = ("auto", "exact", "contains", "choice")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+", re.UNICODE)
_LETTER = re.compile(r"\s*(?:answer\s*(?:is)?\s*:?\s*)?[(\[]?([A-Za-z])[)\].:,]?(?=\s|$)", re.I)


@dataclass(frozen=True, slots=True)
class Score:
    """One graded answer; ``choice`` is None where the row has no choices."""

    exact: bool
    contains: bool
    choice: bool | None = None

    def right(self, metric: str) -> bool:
        """By the metric; ``auto`` is the choice where there are choices, else exact match."""
        if metric == "contains":
            return self.contains
        if metric == "exact" or self.choice is None:
            return self.exact
        return self.choice


def check_metric(metric: str) -> str:
    """Return it, or raise OptionError."""
    if metric not in METRICS:
        raise OptionError("metric", f"{metric!r} is not one of {', '.join(METRICS)}")
    return metric


def normalise(text: str) -> str:
    """``"The two  Circles."`` → ``"2 circles"``."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "")
    words = (_DIGITS.get(word, word) for word in _WORD.findall(folded))
    kept = [word for word in words if word not in _ARTICLES]
    return " ".join(kept) or folded.strip()


def score(text: str, accepted: Sequence[str], choices: Sequence[str] = ()) -> Score:
    """Grade an answer against the accepted ones; with ``choices`` those are texts or letters."""
    said = normalise(text)
    wanted = [normalise(answer) for answer in accepted]
    exact = said in wanted
    contains = any(f" {answer} " in f" {said} " for answer in wanted if answer)
    if not choices:
        return Score(exact, contains)
    right = {index for answer in accepted if (index := chosen(answer, choices)) is not None}
    return Score(exact, contains, chosen(text, choices) in right)


def chosen(text: str, choices: Sequence[str]) -> int | None:
    """Index of the choice that an answer names: by its text, its letter, or alone within it."""
    said = normalise(text)
    options = [normalise(choice) for choice in choices]
    if said in options:
        return options.index(said)
    letter = _LETTER.match(text)
    if letter is not None:
        index = ord(letter[1].upper()) - ord("A")
        # "a red circle" begins with a letter that is an article: a bare one must end the answer
        # or be marked as a letter.
        alone = letter.end() == len(text.rstrip()) or letter[0].strip() != letter[1]
        if index < len(choices) and (alone or letter[1].isupper()):
            return index
    within = [index for index, option in enumerate(options) if f" {option} " in f" {said} "]
    return within[0] if len(within) == 1 else None
