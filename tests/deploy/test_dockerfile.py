"""The image: what is pinned, who it runs as, what it carries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dyvte
from server.settings import Settings
from tests.deploy.programs import ROOT, linter, run
from tests.test_architecture import imports_of

DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text("utf-8")
# One instruction a line, as the builder reads them: without comments and continuations.
INSTRUCTIONS = [
    line
    for line in re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", TEXT)).splitlines()
    if line.strip()
]
FINAL = INSTRUCTIONS[max(i for i, line in enumerate(INSTRUCTIONS) if line.startswith("FROM")) :]


def of_final(instruction: str) -> list[str]:
    """The arguments of each such instruction in the stage that is shipped."""
    return [line.partition(" ")[2].strip() for line in FINAL if line.startswith(instruction + " ")]


def test_the_base_images_are_pinned_to_the_same_full_version() -> None:
    (base,) = re.findall(r"(?m)^ARG PYTHON_IMAGE=(\S+)$", TEXT)
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+\.\d+-slim-\w+", base)
    (compiler,) = re.findall(r"(?m)^ARG COMPILER_IMAGE=(\S+)$", TEXT)
    assert compiler == base.replace("-slim", ""), (
        "kernels must find the C library they were made for"
    )
    outside = {line.split()[1] for line in INSTRUCTIONS if line.startswith("FROM")}
    assert outside == {"${PYTHON_IMAGE}", "${COMPILER_IMAGE}", "dependencies"}
    assert FINAL[0] == "FROM ${PYTHON_IMAGE}"


def test_kernels_are_compiled_for_the_image_and_go_into_its_package() -> None:
    """The command of the stage, on the files that the stage has, and where it leaves them."""
    stage = [line.strip() for line in TEXT.split(" AS kernels\n")[1].split("\n\n")[0].splitlines()]
    assert stage[-1] == "RUN python3 -m dyvte.kernels.build"
    copied = {line.split()[1] for line in stage if line.startswith("COPY")}
    needed = {f"dyvte.{path.removesuffix('.py').split('/')[1]}" for path in copied}
    assert {name for name in imports_of("dyvte.kernels.build") if name.startswith("dyvte.")} <= {
        *needed,
        "dyvte.kernels.trust",
    }
    assert "COPY --from=kernels /build/dyvte/kernels/lib dyvte/kernels/lib" in TEXT
    assert "dyvte/kernels/lib" in (ROOT / ".dockerignore").read_text("utf-8").split("\n")


def test_the_image_runs_as_a_fixed_user_that_owns_its_cache() -> None:
    assert of_final("USER") == ["10001:10001"]
    assert of_final("VOLUME") == ['["/cache"]']
    (made,) = of_final("RUN")
    assert "install -d -o 10001 -g 10001 -m 0750 /cache" in made


def test_the_final_stage_installs_nothing() -> None:
    assert not re.search(r"\b(pip|apt|apt-get|curl|wget|gcc)\b", " ".join(of_final("RUN")))
    assert [line.split()[0] for line in of_final("COPY")] == [
        "--from=dependencies",
        "--from=package",
    ]


def test_versions_are_those_that_were_tested_together() -> None:
    assert "--constraint constraints.txt" in TEXT
    assert of_final("ARG VERSION") == []
    assert f"ARG VERSION={dyvte.__version__}" in FINAL


def test_every_setting_in_the_image_is_one_of_the_server() -> None:
    named = set(re.findall(r"\bDYVTE_([A-Z_]+)=", " ".join(of_final("ENV"))))
    assert "HOST" in named
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


def test_what_is_copied_is_let_into_the_build_and_little_else() -> None:
    rules = (ROOT / ".dockerignore").read_text("utf-8").split("\n")
    assert "*" in rules
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        word
        for line in INSTRUCTIONS
        if line.startswith("COPY") and "--from" not in line
        for word in (path.partition("/")[0] for path in line.split()[1:-1])
    }
    assert copied == let_in


def test_hadolint_finds_nothing() -> None:
    told = run([linter("hadolint"), DOCKERFILE])
    assert (told.returncode, told.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("-slim-bookworm\n\n", "-slim-bookworm\nFROM python:latest AS unused\n\n", "DL3007"),
        ("USER 10001:10001", "USER root", "DL3002"),
        ('ENTRYPOINT ["dyvte"]', "ENTRYPOINT dyvte", "DL3025"),
    ],
)
def test_hadolint_catches_a_planted_error(
    tmp_path: Path, right: str, wrong: str, rule: str
) -> None:
    assert right in TEXT
    planted = tmp_path / "Dockerfile"
    planted.write_text(TEXT.replace(right, wrong), "utf-8")
    told = run([linter("hadolint"), planted])
    assert told.returncode == 1
    assert rule in told.stdout
