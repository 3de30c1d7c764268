"""The command line of ``dyvte serve``, made from the fields of ``Settings``.

Only what the operator typed is handed on, so that the environment and the file can fill the
rest. Every mistake becomes one line: flag, value, remedy.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

from server.settings import ConfigError, Settings

_SECRET = {"api_key"}


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see dyvte serve --help")


def flag(field: str) -> str:
    """``max_num_seqs`` as the operator types it."""
    return "--" + field.replace("_", "-")


def add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    """The flag of one field of ``Settings``; absent from the result where it was not typed."""
    text = (field.description or "").replace("%", "%%")
    if field.default not in (None, ()) and not isinstance(field.default, bool):
        text += f" (default: {field.default})"
    if field.annotation is bool:
        action = argparse.BooleanOptionalAction
        parser.add_argument(flag(name), action=action, default=argparse.SUPPRESS, help=text)
        return
    metavar = name.rsplit("_", 1)[-1].upper()
    parser.add_argument(flag(name), default=argparse.SUPPRESS, help=text, metavar=metavar)


def parser() -> argparse.ArgumentParser:
    """All flags, in the order of the fields."""
    made = _OneLineParser(
        prog="dyvte serve",
        allow_abbrev=False,
        description="Serve a multimodal LLM with OpenAI's API. Every flag can also be given as "
        "the environment variable DYVTE_NAME or as a key of a --config file.",
    )
    for name, field in Settings.model_fields.items():
        add_flag(made, name, field)
    return made


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    if first["type"] == "extra_forbidden":
        return f"{name.replace('_', '-')}: is not a setting; see dyvte serve --help"
    reason = first["msg"].removeprefix("Value error, ")
    value = "" if name in _SECRET else f" {_written(name, first['input'])}"
    return f"{flag(name)}{value}: {reason[0].lower()}{reason[1:]}"


def _written(name: str, value: object) -> str:
    """The value as the operator wrote it, short enough for one line."""
    text = os.environ.get(f"DYVTE_{name.upper()}", "") if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def load_settings(argv: Sequence[str] | None = None) -> Settings:
    """Settings from flags, environment and file. Raises ConfigError with one line."""
    return settings_of(vars(parser().parse_args(argv)))


def settings_of(typed: Mapping[str, Any]) -> Settings:
    """Settings from what was typed, the environment and the file. Raises ConfigError."""
    try:
        return Settings(**typed)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from error
    except SettingsError as error:
        raise ConfigError(str(error).splitlines()[0]) from error
