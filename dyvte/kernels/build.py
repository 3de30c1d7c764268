"""The compiled library: found beside the sources or in the cache, or compiled once.

``python -m dyvte.kernels.build`` compiles it into the package for the levels of processor named
(an image is built where it does not run); otherwise the first model that is loaded compiles it for
the processor at hand into the user's cache, in a few seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from dyvte import cpu

log = logging.getLogger("dyvte.kernels")

HERE = Path(__file__).parent
SOURCES = ("linear.cpp", "rows.cpp", "decode.cpp", "prefill.cpp")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-w")
LEVELS = {"x86-64-v4": "avx512dq", "x86-64-v3": "avx2"}
"""Instruction sets that an image is made for, best first, and the feature that tells each."""
TIMEOUT = 300  # seconds that a compiler may take


@cache
def library() -> ctypes.CDLL | None:
    """The kernels for this processor; None, with a warning, where they cannot be had."""
    path = _shipped() or _compiled_once()
    if path is None:
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        log.warning("the CPU kernels cannot be loaded (%s): torch's own are used, slower", error)
        return None


def compile_into(path: Path, level: str) -> None:
    """Compile the sources for ``level``, ``-march``'s word. Raises OSError, CalledProcessError."""
    compiler = find_compiler()
    if compiler is None:
        raise FileNotFoundError("no C++ compiler")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sources = [str(HERE / "src" / name) for name in SOURCES]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # another process may do the same
        made = Path(folder) / path.name
        command = [compiler, *FLAGS, f"-march={level}", *sources, "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
        made.replace(path)


def find_compiler() -> str | None:
    """``$CXX``, or the first of the usual names that is there."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _digest(*what: str) -> str:
    made_of = hashlib.sha256("\0".join([*FLAGS, *what]).encode())
    for path in sorted((HERE / "src").iterdir()):
        made_of.update(path.read_bytes())
    return made_of.hexdigest()[:16]


def _in_package(level: str) -> Path:
    return HERE / "lib" / f"{level}-{_digest(level)}.so"


def _shipped() -> Path | None:
    """Made into the package for a level that this processor has."""
    able = (level for level, feature in LEVELS.items() if feature in cpu.features())
    return next((path for level in able if (path := _in_package(level)).exists()), None)


def _compiled_once() -> Path | None:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = home / "dyvte" / "kernels" / f"native-{_digest(*sorted(cpu.features()))}.so"
    if path.exists():
        return path
    if find_compiler() is None:
        log.warning("no C++ compiler: torch's own CPU kernels are used, slower (install g++)")
        return None
    try:
        log.info("compiling the CPU kernels for this processor, once")
        compile_into(path, "native")
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        log.warning(
            "the CPU kernels were not compiled (%s): torch's own are used, slower",
            said[-1] if said else type(error).__name__,
        )
        return None
    return path


def main() -> None:
    """Compile into the package for levels of processor."""
    parser = argparse.ArgumentParser(prog="python -m dyvte.kernels.build", description=__doc__)
    parser.add_argument("levels", nargs="*", metavar="LEVEL", help=" or ".join(LEVELS))
    for level in parser.parse_args().levels or LEVELS:
        if level not in LEVELS:
            sys.exit(f"{level!r} is none of {', '.join(LEVELS)}")
        compile_into(_in_package(level), level)


if __name__ == "__main__":
    main()
