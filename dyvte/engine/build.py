"""From a loaded model to a running core: capacity, ledger, cache, attention, scheduler."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from dyvte.attention import AttentionBackend, choose_backend
from dyvte.constraints.grammars import ModelGrammars
from dyvte.engine.capacity import Capacity, plan_capacity
from dyvte.engine.core import EngineCore
from dyvte.engine.decode_graphs import DecodeGraphs
from dyvte.engine.image_cache import ImageCache
from dyvte.engine.pace import LEAST_ROWS, Pace
from dyvte.engine.plan import Limits
from dyvte.engine.prefix_cache import PrefixCache
from dyvte.engine.runner import Runner
from dyvte.engine.scheduler import Scheduler
from dyvte.errors import OptionError
from dyvte.flops import DecoderShape
from dyvte.kv_cache import KVCache, PagedCache, RunCache
from dyvte.model import Model
from dyvte.models.adapter import ModelAdapter
from dyvte.sizing import prefix_states
from dyvte.varlen import VarlenAttention

CPU_PAGE = 64
CUDA_PAGE = 256  # FlashAttention 2 wants pages of 256 rows
CPU_SHARE = 0.4  # of the free memory, for KV pages
CUDA_SHARE = 0.85
FIRST_ROWS = 256
WORKSPACE = 1024**3  # left on the device for activations


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an operator may set; None means: find out.

    ``max_stall_ms`` is the longest that prefills may hold up sequences that decode (0: as long as
    they take). ``max_step_rows`` bounds the same by rows instead, taken through all layers,
    whatever time they take.
    """

    max_model_len: int | None = None
    max_num_seqs: int = 64
    kv_cache_memory: int | None = None
    max_stall_ms: float = 0.0
    max_step_rows: int | None = None
    page_size: int | None = None
    image_cache_memory: int = 0
    cuda_graphs: bool = True
    prefix_cache_memory: int = 0


def build_core(
    model: Model, config: EngineConfig | None = None, attention: AttentionBackend | None = None
) -> EngineCore:
    """Wire a core. Raises OptionError if the asked capacity does not fit."""
    settings = config or EngineConfig()
    adapter = model.adapter
    backend = attention or choose_backend(adapter.device, adapter.dtype)
    if settings.max_num_seqs < 1:
        raise OptionError("max_num_seqs", f"must be at least 1, not {settings.max_num_seqs}")
    capacity = _capacity(adapter, settings)
    cache = _cache(adapter, capacity, backend)
    scheduler = Scheduler(cache.ledger, Limits(settings.max_num_seqs))
    images = ImageCache(settings.image_cache_memory)
    runner = Runner(adapter, cache, backend, _pace(adapter.decoder, settings), images)
    if settings.cuda_graphs and isinstance(cache, PagedCache):
        runner.graphs = _graphs(adapter, cache, backend, settings, capacity.max_model_len)
    budget = settings.prefix_cache_memory
    prefixes = PrefixCache(cache, budget, prefix_states(adapter.decoder, budget))
    grammars = ModelGrammars(model)
    return EngineCore(model, runner, scheduler, capacity.max_model_len, grammars, prefixes)


def _pace(shape: DecoderShape, config: EngineConfig) -> Pace:
    """Before anything was measured a step gets ``FIRST_ROWS`` rows of a layer."""
    stall, rows, first = config.max_stall_ms / 1000, config.max_step_rows, shape.linear(FIRST_ROWS)
    if stall < 0:
        raise OptionError("max_stall_ms", f"must be 0 or more, not {config.max_stall_ms}")
    if rows is None:
        return Pace(stall, first)
    fixed = rows * shape.num_layers * shape.layer(1, rows)
    return Pace(stall, first, fixed, min(rows, LEAST_ROWS))


def _capacity(adapter: ModelAdapter, config: EngineConfig) -> Capacity:
    default = CUDA_PAGE if adapter.device.type == "cuda" else CPU_PAGE
    caches = config.image_cache_memory + prefix_states(adapter.decoder, config.prefix_cache_memory)
    return plan_capacity(
        adapter.decoder,
        itemsize=adapter.dtype.itemsize,
        page_size=config.page_size or default,
        max_positions=adapter.max_positions,
        free_bytes=max(0, _free_bytes(adapter.device) - caches),
        kv_cache_memory=config.kv_cache_memory,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
    )


def _cache(adapter: ModelAdapter, capacity: Capacity, backend: AttentionBackend) -> KVCache:
    shape = adapter.decoder
    ledger = capacity.ledger(shape.num_layers)
    if adapter.device.type == "cuda" or isinstance(backend, VarlenAttention):
        return PagedCache(ledger, shape.num_kv_heads, shape.head_dim, adapter.dtype, adapter.device)
    return RunCache(ledger, shape.num_kv_heads, shape.head_dim, adapter.dtype)


def _graphs(
    adapter: ModelAdapter,
    cache: PagedCache,
    backend: AttentionBackend,
    config: EngineConfig,
    max_model_len: int,
) -> DecodeGraphs | None:
    """Decode steps of fixed shape, where the attention reads pages without asking the host."""
    if not isinstance(backend, VarlenAttention):
        return None
    return DecodeGraphs(adapter, cache, backend, config.max_num_seqs, max_model_len)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for itself after an earlier pool was dropped can be had again.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(max(0, free - WORKSPACE) * CUDA_SHARE)
    return int(_available_memory() * CPU_SHARE)


def _available_memory() -> int:
    """Bytes of main memory that can be had now, within the container's limit where one is set."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = _lines("/sys/fs/cgroup/memory.max")
    used = _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        free = min(free, int(limit[0]) - int(used[0]))
    return max(0, free)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
