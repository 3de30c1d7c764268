"""`dyvte collect` and `dyvte train` as a user types them, on a tiny model."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import dyvte
from dyvte.cli import main
from dyvte.exits.files import read_gates
from dyvte.training.collection import load_collected
from tests import tiny

log = logging.getLogger(__name__)

WORDS = ("what", "which one", "how many", "where", "is it red")
SMALL = ("--max-tokens", "2", "--batch", "3", "--shard", "5", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions about ten pictures, one row broken; ``data.jsonl``."""
    root = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    for index in range(10):
        pixels = bytes(rng.randrange(256) for _ in range(3 * 64))
        Image.frombytes("RGB", (8, 8), pixels).save(root / f"{index}.png")
    rows = []
    for index in range(40):
        text = {"type": "text", "text": f"{rng.choice(WORDS)} {rng.randrange(100)}?"}
        shown = {"type": "image_url", "image_url": {"url": f"{index % 10}.png"}}
        said = {"role": "assistant", "content": rng.choice("abc")}
        rows.append(
            {"id": f"q{index}", "messages": [{"role": "user", "content": [shown, text]}, said]}
        )
    rows[7]["messages"][0]["content"][0]["image_url"]["url"] = "gone.png"  # type: ignore[index]
    (root / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture(scope="module")
def argv(folder: Path, tiny_folder: Path) -> list[str]:
    return ["collect", "--model", str(tiny_folder), "--data", str(folder / "data.jsonl"), *SMALL]


@pytest.fixture(scope="module")
def whole(argv: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main([*argv, "--out", str(out)]) == 0
    return out


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_everything_is_collected_and_a_broken_row_told(
    argv: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = load_collected(whole)
    assert (len(found), found.layers) == (39, (0, 1, 2, 3))
    assert found.status.shape == (39, 4, 2 * tiny.HIDDEN)
    assert found.paper is not None
    assert found.consistent is not None
    assert found.signals.shape == (39, 4, len(found.signal_names))
    assert found.visual_rows.unique().tolist() == [tiny.VISUAL]
    assert len(found.groups.unique()) == 10
    assert main([*argv, "--out", str(whole)]) == 0  # a second time: nothing to do
    printed = capsys.readouterr()
    assert "39 samples, labels paper and self, 1 rows skipped" in printed.out
    assert "skipped line 8: image" in printed.err


def run_and_kill(argv: list[str], out: Path, shards: int, after: float) -> int:
    """The command in a process of its own, killed ``after`` seconds after so many shards."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = "import sys; from dyvte.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *argv, "--out", str(out)]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as p:
        while p.poll() is None and len(list(out.glob("shards/*.safetensors"))) < shards:
            time.sleep(0.002)
        time.sleep(after)
        p.send_signal(signal.SIGKILL)
        return p.wait()


@pytest.mark.timeout(3600)
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    argv: list[str], whole: Path, tmp_path: Path
) -> None:
    """``DYVTE_TEST_KILLS=10`` asks for more kills than a test run has time for."""
    kills, rng, out = int(os.environ.get("DYVTE_TEST_KILLS", "2")), random.Random(), tmp_path / "o"
    for number in range(kills):
        done = len(list(out.glob("shards/*.safetensors")))
        aim = rng.randint(done, min(8, done + 2))
        code = run_and_kill(argv, out, aim, after=rng.uniform(0.0, 0.2))
        left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
        log.info(
            "kill %d: exit %d, left behind: %s", number + 1, code, ", ".join(left) or "nothing"
        )
    assert main([*argv, "--out", str(out)]) == 0
    assert files(out) == files(whole)
    log.info("%d files, byte for byte those of a run that nobody killed", len(files(out)))


def test_going_on_with_other_settings_or_data_is_refused(
    argv: list[str], whole: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, "--out", str(whole), "--labels", "self"]) == 2
    (folder / "fewer.jsonl").write_text((folder / "data.jsonl").read_text()[:3000])
    other = [str(folder / "fewer.jsonl") if a.endswith("data.jsonl") else a for a in argv]
    assert main([*other, "--out", str(whole)]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert "was begun with labels ['paper', 'self'], not ['self']" in printed[0]
    assert "was begun with data 'data.jsonl', not 'fewer.jsonl'" in printed[-1]


def test_the_form_of_the_weights_is_kept_and_held_to(
    argv: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = [*argv, "--weights", "plain", "--limit", "3"]
    assert main([*plain, "--out", str(tmp_path / "out")]) == 0
    card = json.loads((tmp_path / "out" / "collection.json").read_text())
    assert card["settings"]["weights"] == "plain"
    assert main([*argv, "--weights", "plain", "--out", str(whole)]) == 2
    assert main([*argv, "--weights", "int7", "--out", str(tmp_path / "other")]) == 2
    *_, begun, unknown = capsys.readouterr().err.splitlines()
    assert "was begun with weights 'auto', not 'plain'" in begun
    assert "'int7' is none of auto, plain, int8" in unknown


def test_some_layers_and_no_signals(argv: list[str], tmp_path: Path) -> None:
    more = ["--layers", "1-/2", "--signals", "none", "--limit", "6", "--labels", "self"]
    assert main([*argv, *more, "--out", str(tmp_path)]) == 0
    found = load_collected(tmp_path)
    assert (len(found), found.layers, found.signal_names) == (6, (1, 3), ())
    assert found.paper is None


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--data", "none.json"], "--data none.json is not a file"),
        (["--images", "none"], "--images none is not a folder"),
        (["--layers", "9"], "--layers '9': the model has layers 0..3"),
        (["--layers", "x"], "--layers 'x' is not all"),
        (["--signals", "mood"], "--signals 'mood' is not one of"),
        (["--batch", "0"], "--batch: must be at least 1"),
        (["--model", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_collected_is_one_line(
    argv: list[str], more: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, *more, "--out", str(tmp_path / "o")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"dyvte collect: {line}")
    assert printed.count("\n") == 1


def test_gates_are_fitted_without_a_model(
    whole: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was opened")

    with monkeypatch.context() as patch:
        patch.setattr("dyvte.models.registry.open_model", refuse)
        patch.setattr("dyvte.model.load", refuse)
        short = ["--epochs", "2", "--inner", "4", "--held-out", "0.5"]
        for kind in ("paper", "self"):
            out = tmp_path / kind
            code = main(
                ["train", "--data", str(whole), "--out", str(out), "--labels", kind, *short]
            )
            assert code in (0, 2)  # a tiny random model may have no layer where anything may exit
    made = [out for out in tmp_path.iterdir() if (out / "gates.json").exists()]
    assert made
    bank, card = read_gates(made[0])
    assert bank is not None
    assert card is not None
    assert tiny.LAYERS - 1 not in bank.layers
    assert card.model is not None
    assert (card.model.family, card.model.name) == ("llava", tiny_folder.name)
    report = json.loads((made[0] / "training.json").read_text())
    assert report["parameters"] == bank.parameters
    model = dyvte.load(tiny_folder, gates=made[0], device="cpu", dtype="float32")
    result = tiny.alone(model, tiny.prompt(0), exits=dyvte.ExitOptions(aggressiveness=0.99))
    last = tiny.LAYERS if result.exit_layer is None else result.exit_layer
    assert result.flops.gates == sum(bank.flops(layer) for layer in bank.layers if layer <= last)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--data", "none"], "--data none is not a folder"),
        (["--held-out", "2"], "--held-out must lie between 0 and 1"),
        (["--min-layer", "3"], "--min-layer 3 leaves no layer"),
        (["--shape", "round"], "--shape: invalid choice"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    whole: Path, more: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(whole), "--out", str(tmp_path), *more]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"dyvte train: {line}")
    assert printed.count("\n") == 1


def test_a_collection_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "g")]) == 2
    assert "holds no collection; make one with dyvte collect" in capsys.readouterr().err
