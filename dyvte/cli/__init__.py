"""The command line: finds the command, runs it, and turns what goes wrong into one line.

Knows the names of the commands and nothing of what they do; each is a module with
``run(argv) -> int`` that is imported only when asked for, so `dyvte --help` loads no torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from dyvte import __version__, loggers
from dyvte.cli.usage import CommandError, nearest
from dyvte.errors import DyvteError, OptionError

COMMANDS = {
    "serve": "answer OpenAI requests over HTTP",
    "batch": "answer an OpenAI batch file without a server",
    "generate": "answer one question about images on the terminal",
    "check": "what a model is and what a request costs on it, also without weights",
    "convert": "write an original checkpoint as a folder that loads fast",
    "bench": "put load on any OpenAI-compatible server and measure it",
    "evaluate": "score, FLOPs and time of many settings on your own questions",
    "collect": "read statuses and labels off a model, to make gates from",
    "train": "fit gates to what was collected",
    "calibrate": "measure what exits change and save, so that they keep a promise",
    "analyze": "where attention goes, and what exits do to it: the paper's figures",
    "demo": "train or evaluate the embedded demo model",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit code (2: the user can mend it)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"dyvte {__version__}")
        return 0
    name = words[0]
    program = f"dyvte {name}" if name in COMMANDS else "dyvte"
    try:
        return _run(name, words[1:])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output left; without this, closing stdout would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (CommandError, DyvteError, OSError) as error:
        print(f"{program}: {_one_line(error, program)}", file=sys.stderr)
        return 2


def _run(name: str, argv: list[str]) -> int:
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise CommandError(
            f"unknown command {name!r}", nearest(name, COMMANDS) or f"known: {known}"
        )
    loggers.quiet()
    code: int = importlib.import_module(f"dyvte.cli.{name}").run(argv)
    return code


def _one_line(error: Exception, program: str) -> str:
    if isinstance(error, OptionError):
        flag = "--" + error.field.replace("_", "-")
        text = f"{flag} {error.message} (see {program} --help)"
    elif isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror} (check the path)"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _overview() -> str:
    lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: dyvte COMMAND …",
            "",
            "Multimodal LLMs whose visual tokens leave at the layer that each request chose.",
            "",
            *lines,
            "",
            "dyvte COMMAND --help says more; dyvte --version prints the version.",
        ]
    )
