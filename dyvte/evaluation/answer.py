"""What one sample came to under one setting: its tokens, its exit, its cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dyvte.flops import FlopsReport
from dyvte.offline import Result


@dataclass(frozen=True, slots=True)
class Answer:
    """One sample's answer. ``flops.gates`` holds what gates and rules spent themselves."""

    token_ids: tuple[int, ...]
    text: str
    exit_layer: int | None
    tokens_per_layer: tuple[int, ...]
    prompt_tokens: int
    visual_tokens: int
    flops: FlopsReport
    kv_bytes: int
    kv_bytes_saved: int

    @classmethod
    def of(cls, result: Result) -> Answer:
        """The part of a result that an evaluation looks at."""
        stats = result.stats
        return cls(
            token_ids=tuple(result.token_ids),
            text=result.text,
            exit_layer=result.exit_layer,
            tokens_per_layer=tuple(result.tokens_per_layer),
            prompt_tokens=stats.prompt_tokens,
            visual_tokens=stats.visual_tokens,
            flops=result.flops,
            kv_bytes=stats.kv_bytes,
            kv_bytes_saved=stats.kv_bytes_saved,
        )

    def asked(self, gates: int) -> Answer:
        """The same with so many FLOPs of gates on top (negative: taken off)."""
        return replace(self, flops=replace(self.flops, gates=self.flops.gates + gates))

    @property
    def visual_per_layer(self) -> tuple[int, ...]:
        """Visual rows that each layer ran."""
        text = self.prompt_tokens - self.visual_tokens
        return tuple(rows - text for rows in self.tokens_per_layer)

    @property
    def prefill(self) -> int:
        """FLOPs of the LLM's prefill, gates and rules included."""
        return self.flops.prefill + self.flops.gates
