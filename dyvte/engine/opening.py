"""An engine by the name of its model: what ``dyvte serve`` and ``dyvte batch`` run on."""

from __future__ import annotations

from dyvte.engine.allocator import keep_freed_memory
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.handle import AsyncEngine
from dyvte.engine.info import describe
from dyvte.engine.shadow import ShadowConfig
from dyvte.model import load


def open_engine(
    model: str,
    gates: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_model_len: int | None = None,
    max_num_seqs: int = 64,
    max_waiting: int = 256,
    kv_cache_memory: int | None = None,
    image_cache_memory: int = 0,
    shadow_share: float = 0.0,
    shadow_seed: int = 0,
    foreign_gates: bool = False,
    allow_pickle: bool = False,
    token_order: str | None = None,
    max_waiting_tokens: int = 262_144,
    prefix_cache_memory: int = 0,
    max_stall_ms: float = 100.0,
    weights: str = "auto",
    cuda_graphs: bool = True,
) -> AsyncEngine:
    """Load a model and wire an engine around it. Blocking. Raises ModelError, OptionError.

    One that no message can be put to is refused: whoever opens an engine by name serves chats.
    """
    shadows = ShadowConfig(shadow_share, shadow_seed)
    loaded = load(model, gates, device, dtype, foreign_gates, allow_pickle, token_order, weights)
    loaded.check_chat()
    config = EngineConfig(
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        kv_cache_memory=kv_cache_memory,
        image_cache_memory=image_cache_memory,
        prefix_cache_memory=prefix_cache_memory,
        max_stall_ms=max_stall_ms,
        cuda_graphs=cuda_graphs,
    )
    if loaded.adapter.device.type == "cpu":
        keep_freed_memory()
    core = build_core(loaded, config)
    return AsyncEngine(core, describe(loaded, core), max_waiting, shadows, max_waiting_tokens)
