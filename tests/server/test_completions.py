"""Plain text that goes on: prompts of every shape, old log-probabilities, echo, streams."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from dyvte.errors import RequestFailed
from dyvte.structured import StructuredOutput
from tests.server.conftest import Connect
from tests.server.examples import CHAT, body, events
from tests.server.fake_engine import FakeEngine
from tests.server.openai_schema import check_text, check_text_chunk
from tests.server.running import serve

pytestmark = pytest.mark.anyio
URL = "/v1/completions"
TEXT = "Hello, world."


def asked(prompt: object = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": prompt, **fields}


def chunks_of(reply: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, each held against OpenAI's schema."""
    chunks = events(reply)
    for chunk in chunks:
        check_text_chunk(chunk)
    return chunks


def texts(chunks: list[dict[str, Any]], count: int = 1) -> list[str]:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return ["".join(c["text"] for c in choices if c["index"] == at) for at in range(count)]


async def whole(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await client.post(URL, json=asked(**fields))
    assert reply.status_code == 200, reply.text
    check_text(reply.json())
    made: dict[str, Any] = reply.json()
    return made


@pytest.mark.parametrize(
    ("prompt", "given", "choices"),
    [
        ("hi", [b"\x01hi"], 2),
        ([104, 105], [b"hi"], 2),
        (["hi", "you"], [b"\x01hi", b"\x01you"], 4),
        ([[104], [105, 106]], [b"h", b"ij"], 4),
    ],
)
async def test_prompts_come_in_four_shapes(
    connect: Connect, prompt: object, given: list[bytes], choices: int
) -> None:
    engine = FakeEngine()
    async with connect(engine) as client:
        reply = await whole(client, prompt=prompt, n=2)
    assert [bytes(each.prompt.token_ids) for each in engine.requests] == given
    assert [choice["text"] for choice in reply["choices"]] == [TEXT] * choices
    assert [choice["index"] for choice in reply["choices"]] == list(range(choices))
    assert reply["usage"]["prompt_tokens"] == sum(map(len, given))
    assert reply["usage"]["completion_tokens"] == len(TEXT) * choices


async def test_sixteen_tokens_are_made_where_no_number_is_given(connect: Connect) -> None:
    async with connect(FakeEngine(answer=b"x" * 40)) as client:
        (choice,) = (await whole(client))["choices"]
    assert choice["text"] == "x" * 16
    assert choice["finish_reason"] == "length"


async def test_the_prompt_is_echoed(connect: Connect) -> None:
    async with connect() as client:
        reply = await whole(client, prompt=["one ", "two "], echo=True)
        stream = await client.post(URL, json=asked([104, 105], echo=True, stream=True, n=2))
    assert [choice["text"] for choice in reply["choices"]] == ["one " + TEXT, "two " + TEXT]
    assert texts(chunks_of(stream), 2) == ["hi" + TEXT] * 2


async def test_log_probabilities_have_the_old_shape(connect: Connect) -> None:
    async with connect() as client:
        reply = await whole(client, logprobs=2)
        chunks = chunks_of(await client.post(URL, json=asked(logprobs=2, stream=True)))
    told = reply["choices"][0]["logprobs"]
    assert told["tokens"] == list(TEXT)
    assert told["text_offset"] == list(range(len(TEXT)))
    assert told["token_logprobs"] == [-0.5] * len(TEXT)
    assert told["top_logprobs"][0] == {"H": -0.5, "I": -1.5}
    streamed = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
    assert [at for each in streamed for at in each["text_offset"]] == told["text_offset"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "tokens", "offsets"),
    [
        ("hi", ["<s>", "h", "i"], [0, 0, 1]),
        ([1, 104, 105], ["<s>", "h", "i"], [0, 3, 4]),
        ([104], ["h"], [0]),
    ],
)
async def test_an_echoed_prompt_has_log_probabilities_too(
    connect: Connect, prompt: object, tokens: list[str], offsets: list[int], stream: bool
) -> None:
    """As evaluation harnesses ask for them: a null first, then one for each token."""
    fields = {"echo": True, "logprobs": 1, "n": 2, "max_tokens": 2}
    async with connect() as client:
        if stream:
            chunks = chunks_of(await client.post(URL, json=asked(prompt, stream=True, **fields)))
            choices = [choice for chunk in chunks for choice in chunk["choices"]]
            told = [c["logprobs"] for c in choices if c["index"] == 1 and c["logprobs"]]
            found = {key: [each for part in told for each in part[key]] for key in told[0]}
        else:
            reply = await whole(client, prompt=prompt, **fields)
            found = reply["choices"][1]["logprobs"]
    assert found["tokens"] == [*tokens, "H", "e"]
    assert found["token_logprobs"] == [None] + [-0.5] * (len(tokens) + 1)
    assert found["top_logprobs"][0] is None
    assert found["top_logprobs"][1:] == [{token: -0.5} for token in found["tokens"][1:]]
    start = len(prompt) if isinstance(prompt, str) else len("".join(tokens))
    assert found["text_offset"] == [*offsets, start, start + 1]


@pytest.mark.parametrize("echo", [True, False])
async def test_a_prompt_may_be_scored_without_an_answer(connect: Connect, echo: bool) -> None:
    async with connect() as client:
        reply = await whole(client, echo=echo, logprobs=0, max_tokens=0)
        chunks = chunks_of(await client.post(URL, json=asked(echo=echo, max_tokens=0, stream=True)))
    (choice,) = reply["choices"]
    assert choice["text"] == "".join(texts(chunks)) == ("hi" if echo else "")
    assert choice["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 0
    if echo:
        assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -0.5]


@pytest.mark.parametrize("prompt", ["hi", ["a", "b", "c"]])
async def test_a_stream_says_what_a_whole_answer_says(connect: Connect, prompt: object) -> None:
    count = 1 if isinstance(prompt, str) else len(prompt)  # type: ignore[arg-type]
    options = {"include_usage": True}
    async with connect() as client:
        reply = await whole(client, prompt=prompt)
        chunks = chunks_of(
            await client.post(URL, json=asked(prompt, stream=True, stream_options=options))
        )
    *pieces, last = chunks
    assert texts(pieces, count) == [choice["text"] for choice in reply["choices"]]
    assert last["choices"] == []
    assert last["usage"] == reply["usage"]
    assert all(chunk["usage"] is None for chunk in pieces)
    reasons = [c["finish_reason"] for chunk in pieces for c in chunk["choices"]]
    assert [reason for reason in reasons if reason] == ["stop"] * count
    assert ("dyvte" in last) == (count == 1)


@pytest.mark.parametrize("url", [URL, CHAT])
async def test_every_chunk_says_the_usage_so_far_where_it_is_asked_for(
    connect: Connect, url: str
) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    question = asked() if url == URL else body()
    async with connect() as client:
        reply = await client.post(url, json={**question, "stream": True, "stream_options": options})
    chunks = chunks_of(reply) if url == URL else events(reply)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == len(TEXT)
    assert len(set(counts)) > 5


async def test_an_answer_with_a_form_keeps_to_it(connect: Connect) -> None:
    engine = FakeEngine()
    async with connect(engine) as client:
        await whole(client, structured_outputs={"regex": "a+"})
    assert engine.compiled == [StructuredOutput.regex("a+")]


async def test_one_prompt_that_fails_ends_them_all(connect: Connect) -> None:
    engine = FakeEngine(fail_after=(2, RequestFailed("x", "y")), step_s=0.001)
    async with connect(engine) as client:
        reply = await client.post(URL, json=asked(["a", "b", "c"]))
    assert reply.status_code == 500
    assert not engine.running


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [256]}, "prompt"),
        ({"prompt": [[1], [256]]}, "prompt[1]"),
        ({"prompt": ["a"] * 9, "n": 2}, "prompt"),
        ({"prompt": "x" * 600}, "prompt"),
        ({"stream_options": {}}, "stream_options"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
    ],
)
async def test_what_is_not_done_is_named(
    connect: Connect, fields: dict[str, Any], param: str
) -> None:
    async with connect() as client:
        reply = await client.post(URL, json={**asked(), **fields})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


async def test_nulls_and_neutral_values_are_accepted(connect: Connect) -> None:
    from server.api.completion_schema import CompletionRequest

    nulls = dict.fromkeys(CompletionRequest.model_fields.keys() - {"model", "prompt"})
    async with connect() as client:
        await whole(client, **nulls, suffix=None, best_of=None)
        await whole(client, n=2, best_of=2, suffix="")


def test_the_official_client_completes() -> None:
    with serve(FakeEngine()) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        reply = client.completions.create(model="demo", prompt="hi")
        assert reply.choices[0].text == TEXT
        stream = client.completions.create(model="demo", prompt="hi", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == TEXT
