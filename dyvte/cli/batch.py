"""`dyvte batch`: an OpenAI batch file answered in this process, and what it came to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from dyvte.cli.account import si
from dyvte.cli.progress import Bar
from dyvte.cli.usage import Parser

if TYPE_CHECKING:
    from server.batch.account import Account

DESCRIPTION = """\
Answer the requests of an OpenAI batch file without a server. Answers are appended as they come;
the same command goes on where a run was stopped. Every other flag is that of `dyvte serve`."""
SHOWN_ERRORS = 5


def run(argv: Sequence[str]) -> int:
    """Answer, and print the account. 0 once every line has its answer, be it an error."""
    from server.batch import command  # the server and its web framework load only here
    from server.logs import configure_logs
    from server.settings import ConfigError

    parser = _parser()
    command.add_flags(parser)
    typed = vars(parser.read(argv))
    source, target = typed.pop("input"), typed.pop("output")
    try:
        settings = command.batch_settings(typed)
        configure_logs("warning", "auto")
        with _Watch() as watch:
            account = asyncio.run(command.answer_file(source, target, settings, watch.told))
    except ConfigError as error:
        print(f"dyvte batch: {error}", file=sys.stderr)
        return 2
    print(as_text(account))
    return 0


def _parser() -> Parser:
    parser = Parser("dyvte batch", DESCRIPTION)
    add = parser.add_argument
    add("--input", type=Path, required=True, metavar="FILE", help="requests, one a line")
    add("--output", type=Path, required=True, metavar="FILE", help="answers, appended")
    return parser


class _Watch(ExitStack):
    """A bar as long as the input, from the first line on."""

    _bar: Bar | None = None

    def told(self, account: Account) -> None:
        """One more line is dealt with."""
        if self._bar is None:
            self._bar = self.enter_context(Bar("answering", account.lines, "lines"))
        self._bar.update(account.done, fresh=account.done > account.earlier)


def as_text(account: Account) -> str:
    """The account of a run, for the terminal."""
    asked = account.answered + account.failed
    rate = asked / account.seconds if account.seconds else 0.0
    earlier = f", {account.earlier} by an earlier run" if account.earlier else ""
    lines = [
        f"{account.lines} lines: {account.answered} answered, {account.failed} errors{earlier}; "
        f"{account.seconds:.1f} s, {rate:.1f} lines/s",
    ]
    if account.prompt_tokens:
        lines += [
            f"tokens: {account.prompt_tokens:,} of prompts, {account.completion_tokens:,} "
            "of answers",
            f"{si(account.flops)}FLOPs of {si(account.baseline)}FLOPs "
            f"(saved {account.saved_ratio:.0%})",
        ]
    for code, count in account.errors.most_common(SHOWN_ERRORS):
        lines.append(f"error: {count} × {code}, for example: {account.reasons[code][:200]}")
    if account.strangers:
        lines.append(f"the output has {account.strangers} answers to lines that the input lacks")
    return "\n".join(lines)
