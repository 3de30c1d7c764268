"""A folder that brings Python along is read as data: none of it is ever run."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import dyvte
from dyvte.errors import ModelError

MODULE = "from pathlib import Path\nPath({mark!r}).write_text('run')\nclass Theirs: pass\n"
CONFIGS = {
    "config.json": ["AutoConfig", "AutoModel", "AutoModelForImageTextToText"],
    "tokenizer_config.json": ["AutoTokenizer", "AutoProcessor"],
    "processor_config.json": ["AutoProcessor"],
    "preprocessor_config.json": ["AutoImageProcessor", "AutoProcessor"],
}


def with_code(folder: Path, to: Path, mark: Path) -> Path:
    """A copy whose every configuration names a class of a module that lies beside it."""
    shutil.copytree(folder, to)
    (to / "theirs.py").write_text(MODULE.format(mark=str(mark)))
    for name, classes in CONFIGS.items():
        path = to / name
        written = json.loads(path.read_text()) if path.exists() else {}
        named: dict[str, Any] = dict.fromkeys(classes, "theirs.Theirs")
        if "AutoTokenizer" in named:
            named["AutoTokenizer"] = ["theirs.Theirs", None]
        path.write_text(json.dumps({**written, "auto_map": named}))
    return to


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_folder_is_not_run(tiny_folder: Path, tmp_path: Path, known: bool) -> None:
    mark = tmp_path / "mark"
    folder = with_code(tiny_folder, tmp_path / "theirs", mark)
    if not known:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "theirs"}))
        with pytest.raises(ModelError):
            dyvte.load(folder, device="cpu", dtype="float32")
    else:
        with suppress(ModelError):  # refused is fine as well; run is not
            dyvte.load(folder, device="cpu", dtype="float32")
    assert not mark.exists()
