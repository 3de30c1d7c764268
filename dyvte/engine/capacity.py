"""How much fits: from bytes to pages, and from pages to the longest request. Integers only."""

from __future__ import annotations

from dataclasses import dataclass

from dyvte.errors import OptionError
from dyvte.flops import DecoderShape
from dyvte.pages import PageLedger

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Capacity:
    """The pool and the longest sequence that it is asked to hold."""

    num_pages: int
    page_size: int
    page_bytes: int
    max_model_len: int

    def ledger(self, num_layers: int) -> PageLedger:
        """An empty ledger of this capacity."""
        return PageLedger(self.num_pages, self.page_size, num_layers)


def plan_capacity(
    shape: DecoderShape,
    *,
    itemsize: int,
    page_size: int,
    max_positions: int,
    free_bytes: int,
    kv_cache_memory: int | None,
    max_model_len: int | None,
    max_num_seqs: int,
) -> Capacity:
    """Pages for ``kv_cache_memory`` bytes, checked against the model.

    None takes of ``free_bytes`` what ``max_num_seqs`` longest requests could fill, no more.

    Raises OptionError if not even one sequence of an asked ``max_model_len`` fits, or if the
    memory holds nothing useful.
    """
    page_bytes = 2 * page_size * shape.kv_dim * itemsize
    memory = free_bytes if kv_cache_memory is None else kv_cache_memory
    num_pages = memory // page_bytes
    longest = num_pages // shape.num_layers * page_size
    if max_model_len is not None and max_model_len > max_positions:
        raise OptionError(
            "max_model_len", f"{max_model_len} exceeds the model's {max_positions} positions"
        )
    wanted = max_model_len or max_positions
    if longest < min(wanted, 64) or (max_model_len is not None and longest < wanted):
        needed = -(-wanted // page_size) * shape.num_layers * page_bytes
        raise OptionError(
            "kv_cache_memory",
            f"{memory / GIB:.2f} GiB holds {longest} tokens, one request of {wanted} needs "
            f"{needed / GIB:.2f} GiB; raise --kv-cache-memory or lower --max-model-len",
        )
    if kv_cache_memory is None:
        num_pages = min(num_pages, max_num_seqs * shape.num_layers * -(-wanted // page_size))
    return Capacity(num_pages, page_size, page_bytes, min(wanted, longest))
