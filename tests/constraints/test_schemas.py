"""Random schemas, answered in one batch by a random model: what finishes is valid."""

from __future__ import annotations

import json

from jsonschema import Draft202012Validator

import dyvte
from benchmarks.schemas import random_schema
from dyvte import SamplingParams, StructuredOutput
from dyvte.params import FinishReason
from tests import tiny

SEEDS = range(16)


def asked(seed: int) -> SamplingParams:
    wanted = StructuredOutput.json(random_schema(seed))
    return SamplingParams(max_tokens=200, temperature=1, seed=seed, structured_output=wanted)


def test_every_finished_answer_validates(tiny_model: dyvte.Model) -> None:
    prompts = [tiny.prompt(seed, images=seed % 2) for seed in SEEDS]
    answers = dyvte.generate(tiny_model, prompts, [asked(seed) for seed in SEEDS])
    finished = [
        (seed, json.loads(answer.text))
        for seed, answer in zip(SEEDS, answers, strict=True)
        if answer.finish_reason is FinishReason.STOP
    ]
    assert len(finished) > len(SEEDS) // 2
    for seed, answer in finished:
        Draft202012Validator(random_schema(seed)).validate(answer)


def test_an_answer_is_the_same_alone(tiny_model: dyvte.Model) -> None:
    prompts = [tiny.prompt(seed, images=seed % 2) for seed in SEEDS[:4]]
    together = dyvte.generate(tiny_model, prompts, [asked(seed) for seed in SEEDS[:4]])
    for seed, answer in zip(SEEDS, together, strict=False):
        alone = tiny.alone(tiny_model, prompts[seed], sampling=asked(seed))
        assert alone.token_ids == answer.token_ids
