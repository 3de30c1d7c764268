"""The compiled library: found in the package or in the user's cache, or compiled.

``python -m dyvte.kernels.build`` compiles it into the package for levels of processor (an image is
built where it does not run). Elsewhere the first model that is loaded compiles it for the processor
at hand into the user's cache, in a few seconds. Code is loaded from there only as long as nobody
else could have written it (``dyvte.kernels.trust``).
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from dyvte import cpu
from dyvte.kernels import trust

log = logging.getLogger("dyvte.kernels")

HERE = Path(__file__).parent
# -fopenmp: torch ships its OpenMP as libgomp.so.1, the name that g++ asks for. torch is loaded
# first, so both share one library and its pool of threads; what clang++ compiles has a pool of its
# own, so that is tried last.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-w")
_V3 = frozenset({"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})
LEVELS = {
    "x86-64-v4": _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": _V3,
}
"""Instruction sets that an image is made for, best first, and the features that each needs."""
VECTORS = {32: "AVX-512", 16: "AVX2"}  # by outputs of a panel
TIMEOUT = 300  # seconds that a compiler may take
UNUSED = 30 * 24 * 3600  # seconds after which a library that nobody loaded is removed


@cache
def library() -> ctypes.CDLL | None:
    """The kernels for this processor; None, with one warning, where they cannot be had."""
    try:
        shipped = _shipped()
        return ctypes.CDLL(str(shipped)) if shipped is not None else _own()
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("no CPU kernels (%s): torch's own are used, slower", _in_one_line(error))
        return None


def instruction_set() -> str | None:
    """What the kernels compute with, in words; None without kernels."""
    found = library()
    return None if found is None else VECTORS.get(found.dyvte_panel(), "128-bit vectors")


def compile_into(path: Path, level: str) -> None:
    """Compile the sources for ``level``, ``-march``'s word. Raises OSError, SubprocessError."""
    compiler = find_compiler()
    sources = [str(each) for each in _sources() if each.suffix == ".cpp"]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # another process may do the same
        made = Path(folder) / path.name
        command = [*compiler, *FLAGS, f"-march={level}", *sources, "-o", str(made)]
        subprocess.run(
            command, check=True, capture_output=True, text=True, errors="replace", timeout=TIMEOUT
        )
        trust.seal(made)
        made.replace(path)


def find_compiler() -> list[str]:
    """``$CXX``, or the first of the usual names that is there. Raises FileNotFoundError."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else (["g++"], ["c++"], ["clang++"]):
        if shutil.which(command[0]) is not None:
            return command
    raise FileNotFoundError(f"no C++ compiler: {named[0] if named else 'g++'} is not found")


def _sources() -> list[Path]:
    """And no editor's files beside them."""
    found = (HERE / "src").glob("[a-z]*")
    return sorted(each for each in found if each.suffix in (".cpp", ".h"))


def _digest(*what: str) -> str:
    made_of = hashlib.sha256("\0".join([*FLAGS, *what]).encode())
    for path in _sources():
        made_of.update(path.read_bytes())
    return made_of.hexdigest()[:16]


def _in_package(level: str) -> Path:
    return HERE / "lib" / f"{level}-{_digest(level)}.so"


def _shipped() -> Path | None:
    """Made into the package for a level that this processor has."""
    able = (level for level, needed in LEVELS.items() if needed <= cpu.features())
    return next((path for level in able if trust.is_whole(path := _in_package(level))), None)


def _own() -> ctypes.CDLL:
    """Compiled for this very processor, now or before. Raises OSError, SubprocessError."""
    made_for = (platform.machine(), *platform.libc_ver(), *sorted(cpu.features()))
    name = f"native-{_digest(*made_for)}.so"
    folder = _cache()
    if folder is not None and trust.is_private(folder):
        path = folder / name
        kept = _kept(path)
        if kept is not None:
            return kept
        if os.access(folder, os.W_OK):
            log.info("compiling the CPU kernels for this processor, once")
            compile_into(path, "native")
            _remove_unused(folder)
            return ctypes.CDLL(str(path))
    log.warning(
        "compiling the CPU kernels, as at every start: %s cannot be written or is not this "
        "user's alone (XDG_CACHE_HOME names another place)",
        folder or "the cache",
    )
    with tempfile.TemporaryDirectory(prefix="dyvte-") as private:  # what is mapped may be deleted
        compile_into(Path(private) / name, "native")
        return ctypes.CDLL(str(Path(private) / name))


def _kept(path: Path) -> ctypes.CDLL | None:
    """The library that was compiled before; None if there is none to be trusted. Raises OSError."""
    with suppress(OSError):  # somebody else's may be loaded and not be touched
        os.utime(path, follow_symlinks=False)  # first of all: who removes old ones looks at this
    if not (trust.is_whole(path) and trust.is_private(path)):
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        if path.exists():
            raise
        return None  # looked at before it was touched, removed after


def _remove_unused(folder: Path) -> None:
    """Libraries of other versions and processors; a process that has one mapped keeps it."""
    for path in folder.glob(f"native-{'[0-9a-f]' * 16}.so"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > UNUSED:
                path.unlink()


def _cache() -> Path | None:
    """The folder of compiled kernels, made if it was not there; None where there can be none."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        home = named if named.is_absolute() else Path.home() / ".cache"
        for folder in (home, home / "dyvte", home / "dyvte" / "kernels"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder.resolve()  # from here on nobody's links are followed
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None


def _in_one_line(error: Exception) -> str:
    """What a compiler or the system said, without its surroundings."""
    lines = (getattr(error, "stderr", None) or str(error) or type(error).__name__).splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return next((line for line in said if "error" in line), said[-1] if said else "no reason given")


def main() -> None:
    """Compile into the package for levels of processor."""
    parser = argparse.ArgumentParser(prog="python -m dyvte.kernels.build", description=main.__doc__)
    parser.add_argument("levels", nargs="*", metavar="LEVEL", help=" or ".join(LEVELS))
    levels = parser.parse_args().levels
    unknown = [level for level in levels if level not in LEVELS]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of {', '.join(LEVELS)}")
    (HERE / "lib").mkdir(exist_ok=True)
    if not levels and platform.machine() not in ("x86_64", "AMD64"):
        log.warning("no levels are known for %s: nothing is compiled", platform.machine())
        return
    for level in levels or LEVELS:
        try:
            compile_into(_in_package(level), level)
        except (OSError, subprocess.SubprocessError) as error:
            sys.exit(f"{level} was not compiled: {_in_one_line(error)}")


if __name__ == "__main__":
    main()
