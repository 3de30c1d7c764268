"""Where the compiled kernels come from, and what happens where they cannot be had."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from dyvte import cpu
from dyvte.kernels import build, ops, trust
from tests.kernels.given_compiler import Compiler, again, place, program

ROOT = Path(__file__).parents[2]
SOMEBODY = 12345


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_without_a_compiler_there_are_no_kernels_and_one_warning(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.library() is None
    assert not ops.available()
    assert build.instruction_set() is None
    [said] = warnings(caplog)
    assert "no C++ compiler: g++ is not found" in said
    assert "torch's own are used" in said


def test_the_first_compiler_of_the_usual_names_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("clang++", "c++", "g++"):
        (tmp_path / name).write_text("#!/bin/sh\n", "utf-8")
        (tmp_path / name).chmod(0o755)
        assert build.find_compiler() == [name]


def test_a_compiler_that_is_named_and_missing_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert build.library() is None
    assert "no-such-compiler is not found" in warnings(caplog)[0]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ['printf "in linear.cpp\\nx.cpp:1: error: no\\n ^~~\\n" >&2', "exit 1"],
            "x.cpp:1: error: no",
        ),
        (['printf "\\377\\376 error: no\\n" >&2', "exit 1"], "error: no"),
        (["exit 3"], "returned non-zero exit status 3"),
        (["exec sleep 60"], "timed out"),
        (["exit 0"], "No such file"),
        (['while [ "$1" != -o ]; do shift; done', 'echo no library > "$2"'], ".so: "),
    ],
    ids=["fails", "says no text", "is silent", "hangs", "makes nothing", "makes nonsense"],
)
def test_a_compiler_that_breaks_is_told_in_one_line(
    lines: list[str],
    told: str,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CXX", str(program(tmp_path, *lines)))
    monkeypatch.setattr(build, "TIMEOUT", 0.2)
    assert build.library() is None
    [said] = warnings(caplog)
    assert told in said
    assert "\n" not in said
    assert not [each for each in (home / "dyvte" / "kernels").iterdir() if each.is_dir()]


def test_what_is_in_the_cache_is_not_compiled_again(compiler: Compiler, home: Path) -> None:
    before = os.umask(0)
    try:
        first = place(build.library())
    finally:
        os.umask(before)
    assert first.parent == home / "dyvte" / "kernels"
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    assert place(again()) == first
    assert compiler.calls == 1


def test_processes_that_compile_at_once_both_get_kernels(
    home: Path, tmp_path: Path, real: Path
) -> None:
    compiler = Compiler(tmp_path, real, wait=0.3)
    code = (
        "from dyvte.kernels import build; build._shipped = lambda: None; "
        "print(build.instruction_set())"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(home), "CXX": str(compiler.path)}
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    said = {each.communicate(timeout=60)[0].decode().strip() for each in both}
    assert said == {build.VECTORS.get(ops.panel(), "128-bit vectors")}
    assert compiler.calls == 2
    [left] = (home / "dyvte" / "kernels").iterdir()
    assert trust.is_whole(left)


def test_a_cache_that_cannot_be_made_is_done_without(
    compiler: Compiler, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home.write_text("not a folder", "utf-8")
    used = place(build.library())
    assert not used.exists()
    assert not used.parent.exists()
    assert [each for each in warnings(caplog) if "at every start" in each]


def test_a_cache_that_is_read_only_is_read(
    compiler: Compiler, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = place(build.library())
    ask = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != kept.parent and ask(path, mode))
    assert place(again()) == kept
    kept.unlink()
    assert place(again()).parent != kept.parent
    assert not list(kept.parent.iterdir())


def test_a_user_without_a_home_gets_kernels(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative, which is to be ignored")
    monkeypatch.setattr(Path, "home", homeless)
    assert build.library() is not None


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:4096],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    ],
    ids=["empty", "headers alone", "half", "all but a byte", "one bit"],
)
def test_a_damaged_library_is_compiled_again(
    damage: Callable[[bytes], bytes], compiler: Compiler
) -> None:
    """The linker maps half a library without a word, and the process dies when it is called."""
    kept = place(build.library())
    whole = kept.read_bytes()
    kept.unlink()  # what is mapped stays as it was
    kept.write_bytes(damage(whole))
    assert place(again()) == kept
    assert compiler.calls == 2
    assert kept.read_bytes() == whole


def as_somebodys(path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to give a file away")
    os.chown(path, SOMEBODY, SOMEBODY)


def as_a_link(path: Path) -> None:
    moved = path.rename(path.parent.parent / "elsewhere.so")
    path.symlink_to(moved)


@pytest.mark.parametrize(
    "plant",
    [
        lambda file: file.chmod(0o775),
        lambda file: file.chmod(0o757),
        lambda file: as_somebodys(file),
        lambda file: as_a_link(file),
    ],
    ids=["group may write", "others may write", "somebody's", "a link"],
)
def test_a_library_that_others_could_have_written_is_replaced(
    plant: Callable[[Path], None], compiler: Compiler
) -> None:
    kept = place(build.library())
    plant(kept)
    assert place(again()) == kept
    assert compiler.calls == 2
    assert trust.is_private(kept)


@pytest.mark.parametrize(
    "plant",
    [
        lambda folder: folder.chmod(0o770),
        lambda folder: folder.chmod(0o1777),
        lambda folder: as_somebodys(folder),
        lambda folder: folder.parent.chmod(0o777),
        lambda folder: as_somebodys(folder.parent),
    ],
    ids=["group may write", "anyone may add", "somebody's", "all may rename it", "in somebody's"],
)
def test_nothing_is_loaded_from_a_folder_that_others_could_have_filled(
    plant: Callable[[Path], None], compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    kept = place(build.library())
    plant(kept.parent)
    used = place(again())
    assert not used.is_relative_to(kept.parent)
    assert not used.parent.exists()
    assert compiler.calls == 2
    assert [each for each in warnings(caplog) if str(kept.parent) in each]


def test_folders_of_a_group_further_up_and_a_sticky_tmp_are_fine(
    compiler: Compiler, home: Path
) -> None:
    kept = place(build.library())
    home.chmod(0o775)
    kept.parent.parent.chmod(0o1777)
    assert place(again()) == kept
    assert compiler.calls == 1


def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: Path, *levels: str) -> None:
    """As installed with kernels for ``levels``."""
    shutil.copytree(build.HERE / "src", tmp_path / "src")
    monkeypatch.setattr(build, "HERE", tmp_path)
    (tmp_path / "lib").mkdir()
    for level in levels:
        shutil.copy(real, build._in_package(level))
        trust.seal(build._in_package(level))


@pytest.mark.parametrize(
    ("features", "levels", "chosen"),
    [
        ("v4", "x86-64-v3 x86-64-v4", "x86-64-v4"),
        ("v4", "x86-64-v3", "x86-64-v3"),
        ("v3", "x86-64-v3 x86-64-v4", "x86-64-v3"),
        ("v4 without avx512vl", "x86-64-v3 x86-64-v4", "x86-64-v3"),
        ("v3 without fma", "x86-64-v3 x86-64-v4", None),
        ("v3", "x86-64-v4", None),
    ],
)
def test_the_best_level_that_the_processor_has_whole_is_taken(
    features: str, levels: str, chosen: str | None, real: Path, request: pytest.FixtureRequest
) -> None:
    monkeypatch = request.getfixturevalue("monkeypatch")
    package(request.getfixturevalue("tmp_path"), monkeypatch, real, *levels.split())
    level, _, missing = features.partition(" without ")
    has = build.LEVELS[f"x86-64-{level}"] - {missing}
    monkeypatch.setattr(cpu, "features", lambda: has | {"sse2"})
    assert build._shipped() == (chosen and build._in_package(chosen))


def test_what_the_package_brings_needs_no_compiler_and_a_damaged_one_is_passed_over(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, monkeypatch, real, "x86-64-v4", "x86-64-v3")
    monkeypatch.setattr(cpu, "features", lambda: build.LEVELS["x86-64-v4"])
    monkeypatch.setenv("PATH", "")
    assert place(again()) == build._in_package("x86-64-v4")
    build._in_package("x86-64-v4").unlink()  # what is mapped stays as it was
    build._in_package("x86-64-v4").write_bytes(b"half")
    assert place(again()) == build._in_package("x86-64-v3")


def test_the_package_ships_the_sources_and_what_was_compiled_of_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["dyvte.kernels"]
    shipped = {path for pattern in patterns for path in build.HERE.glob(pattern)}
    assert set(build._sources()) <= shipped
    assert any(Path("lib/x86-64-v3.so").match(pattern) for pattern in patterns)


def test_other_sources_flags_or_processors_get_another_name(
    tmp_path: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {place(build.library()).name}
    shutil.copytree(build.HERE / "src", tmp_path / "src")
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert {place(again()).name} == names
    (tmp_path / "src" / ".linear.cpp.swp").write_text("an editor's", "utf-8")
    assert {place(again()).name} == names
    with (tmp_path / "src" / "vector.h").open("a", encoding="utf-8") as file:
        file.write("// changed\n")
    names.add(place(again()).name)
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    names.add(place(again()).name)
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"sse2"}))
    names.add(place(again()).name)
    assert len(names) == compiler.calls == 4


def test_the_command_compiles_into_the_package(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(build.HERE / "src", tmp_path / "src")
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "argv", ["build"])
    build.main()
    assert sorted(each.name[:9] for each in (tmp_path / "lib").iterdir()) == sorted(build.LEVELS)
    monkeypatch.setattr(sys, "argv", ["build", "x86-64-v9"])
    with pytest.raises(SystemExit, match="2"):
        build.main()
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(sys, "argv", ["build", "x86-64-v3"])
    with pytest.raises(SystemExit, match="x86-64-v3 was not compiled: no C"):
        build.main()


def test_the_command_leaves_other_machines_alone(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(sys, "argv", ["build"])
    build.main()
    assert compiler.calls == 0
    assert "aarch64" in warnings(caplog)[0]
