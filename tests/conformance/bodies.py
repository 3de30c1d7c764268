"""Good requests that use every field, to be mutated: what they hold decides what fuzzing meets."""

from __future__ import annotations

from typing import Any

from tests.server.examples import CHAT, RED

SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}, "count": {"type": "integer"}},
    "required": ["color"],
    "additionalProperties": False,
}
TOOL = {"name": "paint", "description": "Paint it.", "parameters": SCHEMA, "strict": True}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "paint", "arguments": '{"color": "red"}'},
}


def bodies() -> list[tuple[str, dict[str, Any]]]:
    """Route and body of each."""
    return [
        *((CHAT, body) for body in _chats()),
        *(("/v1/completions", body) for body in _completions()),
        *(("/v1/responses", body) for body in _responses()),
    ]


def _asked(*content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": [{"type": "text", "text": "What?"}, *content]}
    return {"model": "demo", "messages": [message], "max_tokens": 4, **fields}


def _chats() -> list[dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": RED, "detail": "auto"}}
    tool = {"type": "function", "function": TOOL}
    named = {"type": "function", "function": {"name": "paint"}}
    schema = {"name": "thing", "schema": SCHEMA, "strict": True}
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Paint."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        {"role": "user", "content": [image, {"type": "text", "text": "And now?"}], "name": "al"},
    ]
    exits = {"policy": "gate", "aggressiveness": 0.5, "min_layer": 1, "max_layer": 4}
    prune = {"method": "fastv", "layer": 2, "ratio": 0.5}
    return [
        _asked(image, temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, seed=7, n=2),
        _asked(stop=["a", "b"], stop_token_ids=[5], min_tokens=1, ignore_eos=True, stream=True),
        _asked(logprobs=True, top_logprobs=3, logit_bias={"5": 2.5, "9": -100}),
        _asked(frequency_penalty=0.5, presence_penalty=-0.5, repetition_penalty=1.2),
        _asked(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}),
        _asked(image, response_format={"type": "json_schema", "json_schema": schema}),
        _asked(response_format={"type": "json_object"}, user="u", metadata={"k": "v"}),
        _asked(structured_outputs={"regex": "[a-z]{1,4}(-\\d+)?"}),
        _asked(structured_outputs={"choice": ["yes", "no"]}, stream=True),
        _asked(structured_outputs={"grammar": 'start: "a" | "b"'}),
        _asked(image, tools=[tool], tool_choice="required", parallel_tool_calls=False),
        _asked(tools=[tool], tool_choice=named, stream=True),
        {"model": "demo", "messages": conversation, "tools": [tool], "max_completion_tokens": 3},
        _asked(image, dyvte={**exits, "report": "full"}),
        _asked(image, dyvte={"policy": "fixed", "exit_layer": 2, "prune": prune}),
        _asked(image, dyvte={"max_risk": 0.01, "report": "none"}, service_tier="auto", store=False),
    ]


def _completions() -> list[dict[str, Any]]:
    return [
        {"model": "demo", "prompt": "What?", "max_tokens": 4, "temperature": 0, "echo": True},
        {"model": "demo", "prompt": ["a", "b"], "max_tokens": 2, "logprobs": 2, "n": 2},
        {"model": "demo", "prompt": [1, 5, 9], "max_tokens": 2, "stream": True, "suffix": None},
    ]


def _responses() -> list[dict[str, Any]]:
    image = {"type": "input_image", "image_url": RED, "detail": "low"}
    text = {"type": "input_text", "text": "What?"}
    tool = {"type": "function", **TOOL}
    form = {"type": "json_schema", "name": "thing", "schema": SCHEMA, "strict": True}
    said = {"type": "output_text", "text": "I paint.", "annotations": [], "logprobs": []}
    call = {"type": "function_call", "call_id": "call_1", "name": "paint", "arguments": "{}"}
    conversation = [
        {"role": "developer", "content": [text]},
        {"type": "message", "role": "user", "content": [image, text]},
        {"id": "msg_1", "role": "assistant", "status": "completed", "content": [said]},
        {**call, "id": "fc_1", "status": "completed"},
        {"type": "function_call_output", "call_id": "call_1", "output": "done"},
    ]
    short: dict[str, Any] = {"model": "demo", "max_output_tokens": 4}
    logprobs = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    return [
        {**short, "input": "What?", "instructions": "Be brief.", "temperature": 0, "top_p": 0.5},
        {**short, "input": conversation, "tools": [tool], "metadata": {"k": "v"}, "store": False},
        {**short, "input": "Paint.", "tools": [tool], "tool_choice": "required", "stream": True},
        {**short, "input": "What?", "text": {"format": form}, "stream": True, **logprobs},
        {**short, "input": conversation[:2], "dyvte": {"policy": "fixed", "exit_layer": 2}},
    ]
