"""OpenAI's words become the engine's, with OpenAI's defaults."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers

from dyvte.params import SamplingParams
from server.api.errors import ApiError
from server.api.translate import ChatJob, ImageSource, translate
from server.api.validation import parse_chat
from server.settings import Settings
from tests.server.examples import body, with_images
from tests.server.fake_engine import FakeEngine


def job(raw: dict[str, Any], **settings: object) -> ChatJob:
    operator = Settings.model_validate(settings)
    return translate(parse_chat(raw), Headers({}), FakeEngine(), operator)


def test_defaults_are_openais() -> None:
    plain = SamplingParams(max_tokens=None, temperature=1.0, top_p=1.0)
    assert job(body()).sampling == plain
    nulls = dict.fromkeys(("max_tokens", "temperature", "top_p", "n", "stop", "seed", "logprobs"))
    assert job(body(**nulls)).sampling == plain


def test_every_sampling_field_arrives() -> None:
    asked = job(
        body(
            max_completion_tokens=7,
            temperature=0,
            top_p=0.5,
            top_k=-1,
            min_p=0.1,
            seed=-3,
            stop="END",
            stop_token_ids=[2],
            min_tokens=1,
            ignore_eos=True,
            n=2,
            logprobs=True,
            top_logprobs=4,
            frequency_penalty=1,
            presence_penalty=-2,
            repetition_penalty=1.5,
            logit_bias={"3": -100, "1": 2.5},
        )
    ).sampling
    assert asked == SamplingParams(
        max_tokens=7,
        temperature=0,
        top_p=0.5,
        min_p=0.1,
        seed=-3,
        stop=("END",),
        stop_token_ids=(2,),
        min_tokens=1,
        ignore_eos=True,
        n=2,
        logprobs=4,
        frequency_penalty=1,
        presence_penalty=-2,
        repetition_penalty=1.5,
        logit_bias={1: 2.5, 3: -100},
    )


def test_a_bias_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(ApiError) as caught:
        job(body(logit_bias={"999999999": 1}))
    assert caught.value.detail["param"] == "logit_bias"


def test_logprobs_without_rivals_reports_the_chosen_token_only() -> None:
    assert job(body(logprobs=True)).sampling.logprobs == 0


def test_top_p_zero_leaves_the_most_likely_token() -> None:
    assert 0 < job(body(top_p=0)).sampling.top_p < 1e-5


def test_images_keep_their_order_and_their_path() -> None:
    made = job(with_images("data:a", "data:b"))
    assert made.images == (
        ImageSource("data:a", "auto", "messages[0].content[0].image_url"),
        ImageSource("data:b", "auto", "messages[0].content[1].image_url"),
    )


def test_a_conversation_keeps_roles_and_text() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": "<image> is plain text"},
    ]
    part = {"type": "text", "text": "no"}
    assert list(job({"model": "demo", "messages": messages}).messages) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
        {"role": "assistant", "content": "no"},
        {"role": "assistant", "content": [part]},
        {"role": "user", "content": "<image> is plain text"},
    ]


@pytest.mark.parametrize(
    ("raw", "settings", "param"),
    [
        (body(n=3), {"max_n": 2}, "n"),
        (body(stop=["a", "b"]), {"max_stop": 1}, "stop"),
        ({**body(), "messages": body()["messages"] * 3}, {"max_messages": 2}, "messages"),
        (with_images("a", "b"), {"max_images": 1}, "messages"),
        (body(top_logprobs=2), {}, "top_logprobs"),
        (body(stream_options={"include_usage": True}), {}, "stream_options"),
        (body(max_tokens=1, max_completion_tokens=2), {}, "max_tokens"),
        (body(max_tokens=2, min_tokens=3), {}, "min_tokens"),
        (body(stop_token_ids=[1, 256]), {}, "stop_token_ids"),
    ],
)
def test_limits_and_contradictions_name_the_field(
    raw: dict[str, Any], settings: dict[str, object], param: str
) -> None:
    with pytest.raises(ApiError) as caught:
        job(raw, **settings)
    assert (caught.value.status, caught.value.detail["param"]) == (400, param)
