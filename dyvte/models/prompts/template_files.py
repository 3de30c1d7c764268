"""Which chat template a native folder has: the processor's before the tokenizer's.

The order and the files are those of ``transformers.ProcessorMixin.from_pretrained``: a tokenizer
may carry its language model's template, which knows no images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dyvte.errors import ModelError

NAMED = "default"
"""Which one is meant where several have names."""


def read_template(folder: Path, tokenizer: Any) -> str | None:
    """The template's text, None if there is none. Raises ModelError."""
    for name in ("processor_config.json", "chat_template.json"):
        found = _of_json(folder / name)
        if found:
            return _chosen(found, folder / name)
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    own = getattr(tokenizer, "chat_template", None)
    return _chosen(own, folder / "tokenizer_config.json") if own else None


def _of_json(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: not a JSON object")
    return found.get("chat_template")


def _chosen(found: Any, path: Path) -> str:
    """A template, or the default one of several (a mapping, or a list of name and template)."""
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        found = {each.get("name"): each.get("template") for each in found}
    if isinstance(found, dict):
        if NAMED not in found:
            names = ", ".join(map(str, found))
            raise ModelError(f"{path}: none of the chat templates ({names}) is called {NAMED!r}")
        found = found[NAMED]
    if not isinstance(found, str):
        raise ModelError(f"{path}: chat_template is {type(found).__name__}, expected a string")
    return found
