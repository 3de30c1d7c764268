"""Loggers of other libraries that speak of nothing that a user of ours could mend.

Only programs call this, the command line and the server: a library leaves loggers alone.
"""

from __future__ import annotations

import logging

UNASKED = ("torchao", "torch.utils._pytree")
"""``transformers`` loads torchao wherever it is installed; that then tells which kernels of GPUs it
lacks, and torch that torchao registers its types in a way of yesterday."""


def quiet() -> None:
    """Let them tell errors only, from before they are loaded."""
    for name in UNASKED:
        logging.getLogger(name).setLevel(logging.ERROR)
