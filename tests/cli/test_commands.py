"""Finding a command, and refusing what is not one: one line, exit code 2, no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

import dyvte
from dyvte.cli import COMMANDS, main


def exit_code(argv: Sequence[str]) -> int:
    """What the shell would see: `--help` leaves by SystemExit, as argparse has it."""
    try:
        return main(argv)
    except SystemExit as left:
        return int(left.code or 0)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name} " not in printed] == []


def test_nothing_at_all_is_a_call_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: dyvte COMMAND" in capsys.readouterr().out


def test_version_is_the_packages_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dyvte {dyvte.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([name, "--help"]) == 0
    assert f"dyvte {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["sever"], "dyvte: unknown command 'sever' (did you mean serve?)"),
        (["xyz"], "dyvte: unknown command 'xyz' (known: "),
        (["--verbose"], "dyvte: unknown command '--verbose' ("),
        (["generate"], "dyvte generate: "),
        (["bench", "--rat", "3"], "dyvte bench: unknown option --rat (did you mean --rate?)"),
        (["demo", "trian"], "dyvte demo: unknown command 'trian' (did you mean train?)"),
    ],
)
def test_a_slip_is_one_line_with_a_remedy(
    argv: Sequence[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(line)
    assert printed.err.count("\n") == 1


def test_refusing_and_explaining_load_no_torch() -> None:
    code = (
        "import sys; from dyvte.cli import main; "
        "main(['generate', 'nowhere.png', 'why?']); main(['--help']); main(['demo', 'x']); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("False\n"), done.stderr
