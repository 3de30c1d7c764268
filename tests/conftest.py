"""What every test relies on: nothing is downloaded, tiny models are made here, asyncio runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports transformers or huggingface_hub, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tiny operations on two threads mostly wait for each other: on busy cores ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Times on busy cores say nothing, and a run must find what the last one found.
settings.register_profile(
    "dyvte",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("dyvte")


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of tests marked ``anyio``."""
    return "asyncio"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA with tokenizer, image processor and gates, as a native folder."""
    from tests import tiny

    return tiny.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> Any:
    """That folder through ``dyvte.load``, in float32 on the CPU."""
    import dyvte

    return dyvte.load(tiny_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def plain_model(tiny_folder: Path) -> Any:
    """The same through ``transformers``' own layers, whose products torch's counter sees."""
    import dyvte

    return dyvte.load(tiny_folder, device="cpu", dtype="float32", weights="plain")


@pytest.fixture(scope="session")
def reference(tiny_folder: Path) -> Any:
    """The same weights in ``transformers`` itself, with its own eager attention."""
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(tiny_folder, attn_implementation="eager")
    return model.eval()
