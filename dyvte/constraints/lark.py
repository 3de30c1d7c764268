"""A structured output → one grammar in llguidance's dialect of Lark.

Where the tokenizer puts a space in front of an answer's first word (``▁{``) that is not part of
the answer, the grammar allows it, so that the model may begin as it was trained to.
"""

from __future__ import annotations

import json
from typing import Any

from llguidance import regex_to_lark

from dyvte.structured import StructuredOutput

# At most one space between signs: with any white space allowed, a model that has nothing to say
# writes line breaks and indentation until its length is used up.
WHITESPACE = " ?"
JSON_OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": WHITESPACE, "lenient": False}


def lark_of(wanted: StructuredOutput, leading_space: bool) -> str:
    """The grammar's text; whether it is one shows when it is compiled."""
    space = '" "? ' if leading_space else ""
    match wanted.kind:
        case "json":
            return f"start: {space}%json {schema_text(json.loads(wanted.text))}"
        case "regex":
            return f"start: {space}ANSWER\nANSWER: /{regex_to_lark(wanted.text)}/"
        case "choice":
            choices = " | ".join(json.dumps(each) for each in json.loads(wanted.text))
            return f"start: {space}({choices})"
    return f"start: {space}{nested(wanted.text)}" if space else wanted.text


def nested(grammar: str) -> str:
    """A grammar as a part of another one's rule; its names are its own."""
    return f"%lark {{\n{grammar}\n}}"


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as it stands behind ``%json``, with this project's way of writing JSON."""
    return json.dumps({**schema, "x-guidance": JSON_OPTIONS})
