"""What a user typed: a parser whose complaints are one line, and the kinds of values it takes.

Owns the wording of usage errors. Knows no command.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

FOREIGN = "take gates made for another model of the same width; they promise nothing"


WEIGHTS = "auto, plain, int8 (CPUs only), or with dyvte[quant]: torchao-int8, bnb-int8, bnb-nf4"
PICKLE = "read pickled weights (*.bin) too, tensors only"
TOKEN_ORDER = "order of visual tokens of an original VILA (default: by the checkpoint's age)"


class CommandError(Exception):
    """A command cannot go on: what is wrong, and what the user can do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} ({remedy})")


class _Help(argparse.HelpFormatter):
    """Shows a default where there is one worth showing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or action.default == {}:
            return text
        return f"{text} (default: %(default)s)".strip()


class Parser(argparse.ArgumentParser):
    """``argparse`` that raises ``CommandError`` instead of printing usage and leaving.

    Options are never guessed from a prefix: ``--max`` today must not mean something else
    tomorrow, when a second option begins with it.
    """

    def __init__(self, prog: str, description: str, usage: str | None = None) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            allow_abbrev=False,
            formatter_class=_Help,
        )

    def error(self, message: str) -> NoReturn:
        """Reword ``argparse``'s message and raise it."""
        raise CommandError(message.removeprefix("argument "), f"see {self.prog} --help")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse ``argv``, options and positional words in any order."""
        known, rest = self.parse_known_intermixed_args(argv)
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings]
            remedy = nearest(rest[0].split("=")[0], flags) or f"see {self.prog} --help"
            what = "option" if rest[0].startswith("-") else "argument"
            raise CommandError(f"unknown {what} {rest[0]}", remedy)
        return known


def nearest(word: str, known: Iterable[str]) -> str | None:
    """``did you mean …?`` for the known word that looks most like ``word``, if any does."""
    match = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {match[0]}?" if match else None


def whole(low: int) -> Callable[[str], int]:
    """A type for ``add_argument``: a whole number of at least ``low``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, not {value}")
        return value

    return parse


def number(text: str) -> float:
    """A type for ``add_argument``: any number; its range is checked by whoever owns it."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def above_zero(text: str) -> float:
    """A type for ``add_argument``: a finite number above 0."""
    value = number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return value


def json_object(text: str) -> dict[str, Any]:
    """A type for ``add_argument``: a JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, not {text}")
    return value


def add_reading(parser: argparse.ArgumentParser, devices: str = "auto, cpu, cuda, …") -> None:
    """Flags of every command that loads a model's folder."""
    parser.add_argument("--device", default="auto", help=devices)
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument("--allow-pickle", action="store_true", help=PICKLE)
    parser.add_argument("--token-order", choices=("rows", "columns"), help=TOKEN_ORDER)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """The flag of commands that run a model and do not change it."""
    parser.add_argument("--weights", default="auto", help=WEIGHTS)


def reading(args: argparse.Namespace) -> tuple[bool, str | None]:
    """The values of those flags, as ``dyvte.load`` takes them behind ``foreign_gates``."""
    return args.allow_pickle, args.token_order
