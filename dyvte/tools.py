"""Tool calls as text: how tools are told to a model, and how it writes a call.

One convention, that of Hermes and Qwen, which most open chat templates share:
``<tool_call>\\n{"name": …, "arguments": {…}}\\n</tool_call>``. A template that knows tools and this
convention is given them; to any other model they are told in plain words (``without_tools``).
Knows no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dyvte.constraints.lark import lark_of, nested, schema_text
from dyvte.errors import OptionError
from dyvte.prompt import Message
from dyvte.structured import FIELD, StructuredOutput

OPENING, CLOSING = "<tool_call>", "</tool_call>"
MOST_CALLS = 16
ANY_ARGUMENTS: Mapping[str, Any] = {"type": "object"}

_TOLD = """\
You may call functions to help with the request. These are their signatures, one a line:
<tools>
{tools}
</tools>
To call one, answer with a JSON object of its name and arguments between tags:
<tool_call>
{{"name": <function-name>, "arguments": <arguments-object>}}
</tool_call>"""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call. ``parameters`` is a JSON schema of an object.

    ``strict``: its arguments must keep to the schema also where the model calls it unasked.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(ANY_ARGUMENTS))
    strict: bool = False

    @property
    def signature(self) -> dict[str, Any]:
        """As chat templates take it: OpenAI's tool object."""
        function: dict[str, Any] = {"name": self.name, "parameters": dict(self.parameters)}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": function}


def uses_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> bool:
    """True if there is anything of tools to tell."""
    return bool(tools) or any(m.get("role") == "tool" or m.get("tool_calls") for m in messages)


def without_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The same conversation for a template that knows no tools.

    Signatures go to the end of the system message, a call into the text of its answer, and what
    tools returned into a user message between ``<tool_response>`` tags.
    """
    plain: list[Message] = []
    for message in messages:
        if message.get("role") == "tool":
            response = _part(f"<tool_response>\n{text_of(message)}\n</tool_response>")
            if plain and plain[-1].get("responses"):
                response = _part("\n" + response["text"])
                plain[-1] = {**plain[-1], "content": [*plain[-1]["content"], response]}
            else:
                plain.append({"role": "user", "content": [response], "responses": True})
        elif message.get("tool_calls"):
            said = [text_of(message), *map(call_text, message["tool_calls"])]
            plain.append({"role": "assistant", "content": "\n".join(filter(None, said))})
        else:
            plain.append(message)
    plain = [{k: v for k, v in message.items() if k != "responses"} for message in plain]
    return _told(plain, tools) if tools else plain


def call_text(call: Mapping[str, Any]) -> str:
    """A call as the model writes it; ``arguments`` is an object."""
    body = json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)
    return f"{OPENING}\n{body}\n{CLOSING}"


def text_of(message: Message) -> str:
    """The text of a message that shows no image."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def calls_grammar(
    tools: Sequence[Tool],
    several: bool = True,
    unasked: bool = False,
    form: StructuredOutput | None = None,
) -> StructuredOutput:
    """An answer that calls one of ``tools`` (or several, up to 16).

    ``unasked``: text may come first, and calls need not come at all; with ``form`` an answer is
    either of that form or calls, without text. Raises OptionError("structured_output") for
    parameters that are no schema.
    """
    if unasked and form is None:
        # A lazy lexeme ends where its mark is complete: from there on a call is a call.
        calls = f"call{{0,{MOST_CALLS}}} TEXT" if several else "TEXT | call"
        rules = [f"start: {calls}", "TEXT: /(?s:.*)/", f'opening[lazy]: TEXT "{OPENING}"']
    else:
        calls = f'call ("\\n" call){{0,{MOST_CALLS - 1}}}' if several else "call"
        rules = [f"start: {calls}", f'opening: "{OPENING}"']
        if unasked and form is not None:
            rules[0] = f"start: form | calls\nform: {nested(lark_of(form, False))}\ncalls: {calls}"
    rules.append("call: " + " | ".join(f"opening call_{index}" for index in range(len(tools))))
    for index, tool in enumerate(tools):
        StructuredOutput.json(tool.parameters)  # its bounds
        head = json.dumps(f'\n{{"name": {json.dumps(tool.name)}, "arguments": ')
        arguments = schema_text({"type": "object", **tool.parameters})
        tail = json.dumps("}\n" + CLOSING)
        rules.append(f"call_{index}: {head} %json {arguments} {tail}")
    return StructuredOutput.grammar("\n".join(rules))


def check_tool(tool: Tool) -> None:
    """Raise OptionError if its parameters cannot be those of a function."""
    StructuredOutput.json(tool.parameters)
    if tool.parameters.get("type", "object") != "object":
        raise OptionError(FIELD, "a function's parameters must be of type object")


def _told(messages: list[Message], tools: Sequence[Tool]) -> list[Message]:
    lines = "\n".join(json.dumps(tool.signature, ensure_ascii=False) for tool in tools)
    told = _TOLD.format(tools=lines)
    if messages and messages[0].get("role") == "system":
        first, rest = text_of(messages[0]), messages[1:]
        return [{"role": "system", "content": f"{first}\n\n{told}" if first else told}, *rest]
    return [{"role": "system", "content": told}, *messages]


def _part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
