"""A repository of the hub as a folder: only the files that are read are fetched."""

from __future__ import annotations

from pathlib import Path

WORDS = ("*.json", "*.model", "*.jinja", "*.txt")
"""Configs, tokenizers, templates."""


def patterns(weights: bool, allow_pickle: bool) -> list[str]:
    """What is fetched: pickled weights only where they may be read."""
    safe, pickled = ["*.safetensors"] * weights, ["pytorch_model*.bin"] * allow_pickle
    return [*WORDS, *safe, *(pickled if weights else [])]


def hub_folder(name: str, weights: bool, allow_pickle: bool) -> Path:
    """The folder in the local cache, downloaded first where needed.

    Raises whatever ``huggingface_hub`` raises: its error tree is wide and changes.
    """
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=patterns(weights, allow_pickle)))
