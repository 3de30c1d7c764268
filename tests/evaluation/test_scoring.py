"""When an answer counts as right."""

from __future__ import annotations

import pytest

from dyvte.errors import OptionError
from dyvte.evaluation.scoring import Score, check_metric, chosen, normalise, score

CHOICES = ("a red circle", "a blue square", "nothing")


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ("The  Two Circles.", "2 circles"),
        (" Yes!", "yes"),
        ("1,000.5", "1,000.5"),
        ("don't", "dont"),
        ("Ｒｅｄ", "red"),
        ("top-left", "top left"),
        ("a", "a"),
        ("?", "?"),
    ],
)
def test_normalised(said: str, same: str) -> None:
    assert normalise(said) == same


def test_one_of_several_accepted_answers_suffices() -> None:
    assert score("Violet.", ["purple", "violet"]) == Score(exact=True, contains=True)


def test_contained_means_whole_words() -> None:
    assert score("It is a red circle", ["red"]) == Score(exact=False, contains=True)
    assert score("I am bored", ["red"]) == Score(exact=False, contains=False)


@pytest.mark.parametrize(
    ("said", "index"),
    [
        ("B", 1),
        ("b.", 1),
        ("(B) a blue square", 1),
        ("B: because it is blue", 1),
        ("Answer: C", 2),
        ("A blue square", 1),
        ("a red circle at the top", 0),
        ("I see a blue square.", 1),
        ("a red circle or a blue square", None),
        ("Z", None),
        ("", None),
    ],
)
def test_a_choice_is_named_by_text_letter_or_alone(said: str, index: int | None) -> None:
    assert chosen(said, CHOICES) == index


def test_the_accepted_choice_may_be_a_letter_or_a_text() -> None:
    assert score("blue square", ["B"], CHOICES).choice
    assert score("B", ["a blue square"], CHOICES).choice
    assert not score("A", ["B"], CHOICES).choice


def test_auto_is_the_choice_where_there_are_choices() -> None:
    assert score("(B)", ["a blue square"], CHOICES).right("auto")
    assert not score("(B)", ["a blue square"], CHOICES).right("exact")
    assert score("it is blue", ["blue"]).right("contains")


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(OptionError, match="metric"):
        check_metric("bleu")
