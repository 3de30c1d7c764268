"""What opening a folder gives, and how what goes wrong there is told."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from dyvte.attention import register
from dyvte.errors import ModelError, OptionError
from dyvte.models.adapter import ModelAdapter
from dyvte.models.prompts.chat import ChatFormat
from dyvte.models.vision.images import ProcessImages


@dataclass(frozen=True, slots=True)
class Opened:
    """Everything a folder holds; tokenizer, chat and images are None where it has no such files.

    ``notes`` are what the reader had to decide, for people.
    """

    adapter: ModelAdapter
    folder: Path
    tokenizer: Any | None
    chat: ChatFormat | None
    process_images: ProcessImages | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a user decides about reading a folder. Raises OptionError.

    ``allow_pickle`` takes pickled weights where there are no others (tensors only, no code).
    ``token_order`` ("rows" or "columns") overrides what VILA's reader finds out by itself.
    """

    allow_pickle: bool = False
    token_order: str | None = None

    def __post_init__(self) -> None:
        if self.token_order not in (None, "rows", "columns"):
            raise OptionError("token_order", f"{self.token_order!r}: use rows or columns")


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json``. Raises ModelError."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise ModelError(f"{folder}: no config.json there; is it a model folder?") from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object")
    return config


def implementations() -> dict[str, str]:
    """Attention by part of a ``transformers`` model: ours in the decoder."""
    return {"text_config": register(), "vision_config": "sdpa"}


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """What a broken folder makes the readers raise becomes one line of ModelError."""
    try:
        yield
    except ModelError as error:
        named = str(error).startswith(str(folder))
        raise error if named else ModelError(f"{folder}: {error}") from error
    except KeyError as error:
        found = "has no {}" if _is_ours(error) else "says {}, which transformers does not know"
        raise ModelError(f"{folder}: config.json {found.format(error)}") from error
    except StrictDataclassError as error:
        said = str(error).splitlines()[-1].strip()
        raise ModelError(f"{folder}: config.json: {said.partition(': ')[2] or said}") from error
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{folder}: {_first_line(error)}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ModelError(
            f"{folder}: its settings are not those of a model "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


def check_settings(file: Path) -> None:
    """Raise ModelError for a file of settings that says nothing: defaults would stand in."""
    try:
        said = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{file.parent}: {file.name} is not valid JSON") from error
    if not isinstance(said, dict) or not said:
        raise ModelError(f"{file.parent}: {file.name} holds no settings")


@contextmanager
def naming(folder: Path, *files: str) -> Iterator[None]:
    """What a library says of broken files becomes a ModelError that names the file.

    That is the first of ``files`` that is no JSON object; else all that are there.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more special
        there = [folder / name for name in files if (folder / name).exists()]
        for file in there:
            if file.suffix == ".json" and not _is_object(file):
                raise ModelError(f"{folder}: {file.name} is not a JSON object") from error
        names = " and ".join(file.name for file in there)
        raise ModelError(f"{folder}: {names} cannot be read ({_first_line(error)})") from error


def _is_object(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False


def _is_ours(error: BaseException) -> bool:
    """True where this package looked for a key, and not a library of ours."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("dyvte.")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no load reports from ``transformers`` while we load."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
