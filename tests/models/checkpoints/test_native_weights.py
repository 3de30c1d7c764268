"""The names inside ``transformers`` that loading leans on, and the renaming that they do."""

from __future__ import annotations

from importlib import import_module
from inspect import signature

import pytest
import transformers

USED = {
    "transformers.conversion_mapping": {"get_model_conversion_mapping": ["model"]},
    "transformers.core_model_loading": {
        "WeightRenaming": [],
        "rename_source_key": [
            *("source_key", "weight_renamings", "weight_converters"),
            *("base_model_prefix", "meta_state_dict"),
        ],
    },
}


@pytest.mark.parametrize("module", USED)
def test_the_internals_of_transformers_that_are_used_are_there(module: str) -> None:
    """They are no part of its promises: a release may move them, and then this says which."""
    where = f"transformers {transformers.__version__} (see checkpoints/native_weights.py)"
    try:
        found = import_module(module)
    except ImportError:
        pytest.fail(f"{where} has no module {module}")
    for name, arguments in USED[module].items():
        assert hasattr(found, name), f"{where} has no {module}.{name}"
        takes = list(signature(getattr(found, name)).parameters)[: len(arguments)]
        assert takes == arguments, f"{where}: {module}.{name} takes {takes}, not {arguments}"
