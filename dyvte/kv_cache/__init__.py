"""Keys and values of all sequences, booked in a ``PageLedger``.

``RunCache`` keeps the rows of a (sequence, layer) in one contiguous run, which CPU attention
reads in place; ``PagedCache`` keeps them in fixed pages of one pool, which CUDA kernels read
through block tables. Both hold exactly the rows that were appended: what left never arrives.

Shapes: T rows of a step, H key/value heads, D head_dim, n rows of one sequence.
"""

from __future__ import annotations

from dyvte.kv_cache.base import KVCache
from dyvte.kv_cache.paged import PagedCache
from dyvte.kv_cache.runs import RunCache

__all__ = ["KVCache", "PagedCache", "RunCache"]
