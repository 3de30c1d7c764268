"""The directions of the house, walked with ``ast`` and, where laziness matters, by importing.

`docs/architecture.md` says which room may know which; this file says it so that it stays true.
An import inside a function counts as much as one at the top: a direction is a direction. Only
imports under ``if TYPE_CHECKING`` are free, since they never run.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for package in ("dyvte", "server", "benchmarks", "tests")
    for path in (ROOT / package).rglob("*.py")
)
MAX_LINES = 400
NAMELESS = {"utils", "util", "common", "helpers", "helper", "misc"}

# Rooms of the library that stand on the core. The core stands on none of them.
CORE_USERS = ("data", "training", "evaluation", "analysis", "demo", "cli", "bench")
WEB = {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings", "prometheus_client"}
TORCH = {"torch", "transformers", "safetensors"}
WITHOUT_TORCH = (
    "dyvte.errors",
    "dyvte.params",
    "dyvte.pictures",
    "dyvte.prompt",
    "dyvte.flops",
    "dyvte.pages",
    "dyvte.engine.plan",
    "dyvte.engine.scheduler",
    "dyvte.engine.stats",
    "dyvte.engine.events",
)
IMPORTABLE_WITHOUT_TORCH = (*WITHOUT_TORCH, "dyvte", "dyvte.cli", "dyvte.bench", "server.app")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_nodes(tree: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements of a module; those inside functions only if ``lazy``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not lazy:
            continue
        elif not is_typing_only(node):
            yield from import_nodes(node, lazy)


def targets(node: ast.Import | ast.ImportFrom, module: str, path: Path) -> Iterator[str]:
    """Full names that an import statement loads; ``from a import b`` may be module a.b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
    yield base
    yield from (f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES)


def imports_of(module: str, lazy: bool = True) -> set[str]:
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for node in import_nodes(tree, lazy) for name in targets(node, module, path)}


IMPORTS = {module: imports_of(module) for module in MODULES}


def inside(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def offences(rooms: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    """``a imports b`` for each module a in ``rooms`` that imports something in ``forbidden``."""
    return [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if inside(module, *rooms)
        for name in sorted(names)
        if inside(name, *forbidden)
    ]


def loaded_by(module: str) -> dict[str, str]:
    """What importing ``module`` loads, parents included, each with the module that asked for it."""
    asked_by = {module: module}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        parents = {name.rsplit(".", k)[0] for k in range(1, name.count(".") + 1)}
        wanted = parents | (imports_of(name, lazy=False) if name in MODULES else set())
        for new in wanted - asked_by.keys():
            asked_by[new] = name
            waiting.append(new)
    return asked_by


def test_the_library_does_not_know_the_server() -> None:
    # `dyvte serve` and `dyvte batch` are the server's own commands, and the one exception.
    found = {offence.split()[0] for offence in offences(("dyvte",), ("server",))}
    assert found <= {"dyvte.cli.serve", "dyvte.cli.batch"}


def test_the_library_knows_no_web_framework() -> None:
    assert offences(("dyvte",), tuple(WEB)) == []


def test_the_server_enters_the_library_through_its_front() -> None:
    """Values from the core's torch-free files, work through ``dyvte.engine``, nothing deeper."""
    torch_files = ("forward", "attention", "kv_cache", "packing", "sampling", "exits", "models")
    deep = tuple(f"dyvte.{room}" for room in (*torch_files, *CORE_USERS))
    found = offences(("server",), deep)
    # The composition root may build what it wires together.
    assert [o for o in found if not o.startswith("server.__main__ ")] == []


def test_the_server_knows_no_torch() -> None:
    assert offences(("server",), tuple(TORCH)) == []


def test_exits_know_neither_models_nor_forward() -> None:
    upward = ("dyvte.models", "dyvte.forward", "dyvte.engine", "dyvte.kv_cache")
    assert offences(("dyvte.exits",), upward) == []


def test_models_do_not_know_the_engine() -> None:
    assert offences(("dyvte.models",), ("dyvte.engine", "dyvte.forward")) == []


def test_families_know_no_files_and_what_they_stand_on_knows_no_family() -> None:
    def rooms(*names: str) -> tuple[str, ...]:
        return tuple(f"dyvte.models.{name}" for name in names)

    opening = rooms("checkpoints", "originals", "registry")
    assert offences(rooms("families", "vision", "prompts", "adapter", "decoder"), opening) == []
    ground = rooms("vision", "prompts", "adapter", "decoder", "projection")
    assert offences(ground, rooms("families")) == []


def test_the_core_does_not_know_who_uses_it() -> None:
    users = tuple(f"dyvte.{room}" for room in CORE_USERS)
    found = offences(("dyvte",), users)
    assert [o for o in found if not inside(o.split()[0], *users)] == []


@pytest.mark.parametrize("room", ["training", "evaluation", "analysis"])
def test_training_evaluation_and_analysis_do_not_know_each_other(room: str) -> None:
    others = tuple(f"dyvte.{o}" for o in ("training", "evaluation", "analysis") if o != room)
    assert offences((f"dyvte.{room}",), others) == []


def test_pure_files_never_ask_for_torch() -> None:
    assert offences(WITHOUT_TORCH, tuple(TORCH)) == []


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_pure_files_reach_no_torch_on_any_way(module: str) -> None:
    asked_by = loaded_by(module)
    assert {name: asked_by[name] for name in asked_by if inside(name, *TORCH)} == {}


@pytest.mark.parametrize("module", IMPORTABLE_WITHOUT_TORCH)
def test_importing_it_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*({TORCH} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_no_file_is_longer_than_one_can_hold_in_mind() -> None:
    lengths = {
        module: len(path.read_text("utf-8").splitlines()) for module, path in MODULES.items()
    }
    assert {m: n for m, n in lengths.items() if n > MAX_LINES} == {}


def test_no_module_is_named_after_nothing() -> None:
    assert [m for m in MODULES if m.split(".")[-1] in NAMELESS] == []


def test_every_package_says_what_it_is() -> None:
    bare = {
        str(path.parent.relative_to(ROOT))
        for path in SOURCES
        if path.is_relative_to(ROOT / "dyvte") or path.is_relative_to(ROOT / "server")
        if not (path.parent / "__init__.py").exists()
    }
    assert bare == set()
