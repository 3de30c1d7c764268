"""One tokenizer for all tests here: training it takes seconds."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from dyvte.demo.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer()
