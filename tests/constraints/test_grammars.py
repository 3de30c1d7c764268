"""Grammars over a vocabulary of bytes: what they allow, what they refuse, what they keep."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

import dyvte
from dyvte import OptionError, StructuredOutput
from dyvte.constraints.constraint import Constraint
from dyvte.constraints.grammars import ModelGrammars
from dyvte.errors import GrammarFailed
from dyvte.models.prompts.tokens import TokenBytes
from tests import tiny

OBJECT = {
    "type": "object",
    "properties": {"Name": {"enum": ["Ä", "b"]}, "n": {"type": "integer"}},
    "required": ["Name", "n"],
    "additionalProperties": False,
}


@pytest.fixture
def grammars(tiny_model: dyvte.Model) -> ModelGrammars:
    return ModelGrammars(tiny_model)


def ids(model: dyvte.Model, text: str) -> list[int]:
    assert model.tokenizer is not None
    found: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def allowed(constraint: Constraint) -> set[int]:
    return set(constraint.mask().nonzero().flatten().tolist())


def follow(model: dyvte.Model, constraint: Constraint, text: str) -> None:
    for token in ids(model, text):
        assert token in allowed(constraint), text
        constraint.accept(token)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (StructuredOutput.choice(["red", 'a "b"\n', "Ü/"]), 'a "b"\n'),
        (StructuredOutput.choice(["red", "Ü/"]), "Ü/"),
        (StructuredOutput.regex(r"[A-C]{2}/\d+x"), "AC/12x"),
        (StructuredOutput.grammar('start: "(" start ")" | "x"'), "((x))"),
        (StructuredOutput.json(OBJECT), json.dumps({"Name": "Ä", "n": -3}, ensure_ascii=False)),
        (StructuredOutput.json(OBJECT), '{ "Name":"b" , "n":0 }'),
    ],
)
def test_an_answer_of_the_form_is_allowed_and_ends(
    tiny_model: dyvte.Model, grammars: ModelGrammars, wanted: StructuredOutput, text: str
) -> None:
    constraint = grammars.begin(wanted)
    follow(tiny_model, constraint, text)
    assert constraint.finished


def test_nothing_else_is_allowed(tiny_model: dyvte.Model, grammars: ModelGrammars) -> None:
    constraint = grammars.begin(StructuredOutput.choice(["red", "real"]))
    assert allowed(constraint) == set(ids(tiny_model, "r"))
    follow(tiny_model, constraint, "re")
    assert allowed(constraint) == set(ids(tiny_model, "da"))


def test_an_end_is_allowed_where_the_answer_may_end(
    tiny_model: dyvte.Model, grammars: ModelGrammars
) -> None:
    constraint = grammars.begin(StructuredOutput.regex("a+"))
    assert tiny.EOS not in allowed(constraint)
    follow(tiny_model, constraint, "a")
    assert not constraint.finished
    assert allowed(constraint) == {tiny.EOS, *ids(tiny_model, "a")}


def test_specials_are_never_allowed(grammars: ModelGrammars) -> None:
    anything = allowed(grammars.begin(StructuredOutput.regex("(?s:.*)")))
    assert anything & set(range(len(tiny.SPECIALS))) == {tiny.EOS}


def test_sequences_of_one_grammar_do_not_share_their_place(
    tiny_model: dyvte.Model, grammars: ModelGrammars
) -> None:
    wanted = StructuredOutput.choice(["ab", "ba"])
    first, second = grammars.begin(wanted), grammars.begin(wanted)
    follow(tiny_model, first, "a")
    follow(tiny_model, second, "ba")
    assert second.finished
    assert allowed(first) == set(ids(tiny_model, "b"))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (StructuredOutput.regex("(a"), "unclosed group"),
        (StructuredOutput.regex(r"(?=a)b"), "look-around"),
        (StructuredOutput.regex(r"(a)\1"), "backreferences"),
        (StructuredOutput.json({"not": {"type": "string"}}), "not"),
        (StructuredOutput.json({"type": "strnig"}), "strnig"),
        (StructuredOutput.json({"allOf": [{"type": "string"}, {"type": "null"}]}), "nsatisf"),
        (StructuredOutput.json({"$ref": "http://127.0.0.1:9/x"}), "fetch"),
        (StructuredOutput.json({"$ref": "file:///etc/passwd"}), "fetch"),
        (StructuredOutput.json({"$ref": "#"}), "no answer at all"),
        (StructuredOutput.grammar("start: foo"), "foo"),
    ],
)
def test_what_cannot_be_compiled_says_why(
    grammars: ModelGrammars, wanted: StructuredOutput, reason: str
) -> None:
    with pytest.raises(OptionError, match=reason) as error:
        grammars.compile(wanted)
    assert error.value.field == "structured_output"
    assert "\n" not in str(error.value)
    with pytest.raises(GrammarFailed):
        grammars.begin(wanted).mask()


def test_the_largest_objects_can_be_answered(
    tiny_model: dyvte.Model, grammars: ModelGrammars
) -> None:
    optional = {"properties": {f"p{index}": {"type": "null"} for index in range(512)}}
    either = [{"properties": {f"p{index}": {"type": "null"}}} for index in range(400)]
    for schema in (optional, {"anyOf": [{"type": "object", **each} for each in either]}):
        constraint = grammars.begin(StructuredOutput.json({"type": "object", **schema}))
        follow(tiny_model, constraint, '{"p7": null}')
        assert constraint.finished


def test_a_grammar_beyond_its_budget_says_so(
    tiny_model: dyvte.Model, grammars: ModelGrammars
) -> None:
    constraint = grammars.begin(StructuredOutput.regex("((a{1,1000}){1,1000}){1,1000}"))
    with pytest.raises(GrammarFailed, match="too complex"):
        follow(tiny_model, constraint, "a" * 60)


def test_few_grammars_are_kept(tiny_model: dyvte.Model) -> None:
    grammars = ModelGrammars(tiny_model, most_kept=2)
    for index in range(5):
        grammars.compile(StructuredOutput.regex(f"a{{{index + 1}}}"))
    assert len(grammars._compiled) == 2
    constraint = grammars.begin(StructuredOutput.regex("a{1}"))  # compiled anew, in a worker
    follow(tiny_model, constraint, "a")


class Without(TokenBytes):
    """A table of a tokenizer that cannot spell some bytes."""

    lost = b"{"

    def __call__(self, token_id: int) -> bytes:
        text = super().__call__(token_id)
        return b"" if text == self.lost else text


def test_bytes_that_the_tokenizer_lacks_are_an_error_and_no_hang(tiny_model: dyvte.Model) -> None:
    model = replace(tiny_model, token_bytes=Without(tiny_model.tokenizer))
    grammars = ModelGrammars(model)
    for wanted in (StructuredOutput.json(), StructuredOutput.choice(["a{b"])):
        with pytest.raises(OptionError, match=r"no tokens for '\{'"):
            grammars.compile(wanted)
    constraint = grammars.begin(StructuredOutput.regex(r"(a|b)\{x"))
    constraint.accept(ids(tiny_model, "a")[0])
    with pytest.raises(GrammarFailed, match="no token of this model"):
        constraint.mask()


def test_a_model_without_tokenizer_or_end_is_refused(tiny_model: dyvte.Model) -> None:
    bare = ModelGrammars(replace(tiny_model, token_bytes=None))
    with pytest.raises(OptionError, match="no tokenizer"):
        bare.compile(StructuredOutput.json())


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (StructuredOutput.choice(["red"]), " red"),
        (StructuredOutput.regex("red"), " red"),
        (StructuredOutput.grammar('start: "red"'), " red"),
        (StructuredOutput.grammar('start: "a" start | "}"'), " aa}"),
        (StructuredOutput.json(OBJECT), ' {"Name": "b", "n": 1}'),
    ],
)
def test_a_space_that_readers_do_not_see_may_come_first(
    tiny_model: dyvte.Model, wanted: StructuredOutput, text: str
) -> None:
    spaced = TokenBytes(tiny_model.tokenizer)
    spaced.strips_leading_space = True
    grammars = ModelGrammars(replace(tiny_model, token_bytes=spaced))
    for answer in (text, text.strip()):
        constraint = grammars.begin(wanted)
        follow(tiny_model, constraint, answer)
        assert constraint.finished


def test_masks_are_as_long_as_the_logits(tiny_model: dyvte.Model, grammars: Any) -> None:
    mask = grammars.begin(StructuredOutput.json()).mask()
    assert mask.shape == (tiny.VOCAB,)
    assert mask.dtype is torch.bool
