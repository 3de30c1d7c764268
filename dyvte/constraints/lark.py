"""A structured output → one grammar in llguidance's dialect of Lark.

Where the tokenizer puts a space in front of an answer's first word (``▁{``) that is not part of
the answer, the grammar allows it, so that the model may begin as it was trained to.
"""

from __future__ import annotations

import json
import re
from typing import Any

from llguidance import regex_to_lark

from dyvte.structured import StructuredOutput

# At most one space between signs: with any white space allowed, a model that has nothing to say
# writes line breaks and indentation until its length is used up.
WHITESPACE = " ?"
JSON_OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": WHITESPACE, "lenient": False}
_START = re.compile(r"^start\s*:", re.MULTILINE)


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
    alone = len(re.findall(r"\bstart\b", wanted.text)) == 1
    if space and alone and _START.search(wanted.text):
        return f"start: {space}answer\n" + _START.sub("answer:", wanted.text)
    return wanted.text


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as it stands behind ``%json``, with this project's way of writing JSON."""
    return json.dumps({**schema, "x-guidance": JSON_OPTIONS})
