"""``/v1/responses`` of a served demo model, through the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from tests.e2e.conftest import MODEL, ROOT, Server, started
from tests.e2e.pictures import ask, png, url

PICTURE = (ROOT / "docs" / "picture.png").read_bytes()
QUESTION = "What color is the circle?"
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0}
PAINT = {
    "type": "function",
    "name": "paint",
    "description": "Paints.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    },
}


class Thing(BaseModel):
    """What a picture shows."""

    color: Literal["red", "blue"]
    count: Literal[1, 2, 3]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The demo model."""
    with started(Path("demo")) as running:
        yield running


@pytest.fixture
def responses(server: Server) -> Any:
    """The client's; its overloads reject input as plain data."""
    return server.client.responses


def shown(text: str, picture: bytes) -> list[dict[str, Any]]:
    """A picture and a question about it."""
    image = {"type": "input_image", "image_url": url(picture), "detail": "auto"}
    return [{"role": "user", "content": [image, {"type": "input_text", "text": text}]}]


def test_a_picture_is_answered_as_in_a_chat(server: Server, responses: Any) -> None:
    exits = {"extra_body": {"dyvte": {"max_risk": 0.005}}}
    reply = responses.create(
        input=shown(QUESTION, PICTURE), max_output_tokens=16, **GREEDY, **exits
    )
    chat: Any = server.client.chat.completions
    same = chat.create(messages=ask(QUESTION, PICTURE), max_tokens=16, **GREEDY, **exits)
    assert reply.output_text == same.choices[0].message.content
    assert "red" in reply.output_text
    assert reply.status == "completed"
    assert reply.usage.input_tokens == same.usage.prompt_tokens
    assert reply.usage.output_tokens == same.usage.completion_tokens
    account, theirs = reply.model_extra["dyvte"], same.model_extra["dyvte"]
    assert account["exit_layer"] == theirs["exit_layer"] is not None
    assert account["flops"]["saved"] == theirs["flops"]["saved"] > 0


def test_a_stream_ends_with_what_the_whole_answer_is(responses: Any) -> None:
    sent = {"input": shown("What is it?", png(seed=3)), "max_output_tokens": 16, **GREEDY}
    responses.create(**sent)  # from now on both find the picture's rows
    whole = responses.create(**sent)
    with responses.stream(**sent) as stream:
        events = list(stream)
        final = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert final.usage == whole.usage
    assert final.model_extra["dyvte"]["exit_layer"] == whole.model_extra["dyvte"]["exit_layer"]


def test_a_length_makes_an_answer_incomplete(responses: Any) -> None:
    sent = {"input": "count", "max_output_tokens": 2, "extra_body": {"ignore_eos": True}}
    events = list(responses.create(stream=True, **sent, **GREEDY))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"
    assert events[-1].response.usage.output_tokens == 2


def test_a_model_of_pydantic_is_filled(responses: Any) -> None:
    reply = responses.parse(input=shown("what?", PICTURE), text_format=Thing, **GREEDY)
    assert isinstance(reply.output_parsed, Thing)
    assert json.loads(reply.output_text) == reply.output_parsed.model_dump()


def test_a_call_is_asked_for_and_answered(responses: Any) -> None:
    sent: dict[str, Any] = {"tools": [PAINT], "tool_choice": "required", **GREEDY}
    sent |= {"parallel_tool_calls": False, "instructions": "Use the tool."}
    question = shown("Paint it.", PICTURE)
    first: Response = responses.create(input=question, **sent)
    (call,) = first.output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["color"] in ("red", "blue")
    with responses.stream(input=question, **sent) as stream:
        (streamed,) = stream.get_final_response().output
    assert (streamed.name, streamed.arguments) == (call.name, call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    second = responses.create(
        input=[*question, call, result], tools=[PAINT], max_output_tokens=8, **GREEDY
    )
    assert second.output[0].type in ("message", "function_call")


def test_what_is_not_stored_cannot_be_gone_on_from(responses: Any) -> None:
    reply = responses.create(input="hello", max_output_tokens=4, **GREEDY)
    assert reply.model_extra["store"] is False
    with pytest.raises(openai.BadRequestError) as refused:
        responses.create(input="more", previous_response_id=reply.id, **GREEDY)
    assert refused.value.param == "previous_response_id"
    for leave in (responses.retrieve, responses.delete):
        with pytest.raises(openai.NotFoundError, match="stores no responses"):
            leave(reply.id)
