"""Prefixes that earlier requests computed, found again by what they hold.

An entry's rows lie in the KV cache under the id of the sequence that computed them, which may
still be running: its prefix no longer changes. When that sequence ends, the rows stay in the pool
under a name of the cache's own, as pages that anybody may take: least recently used first, when
pages are short or the budget is. A request that goes deeper than an entry replaces it. A salt
keeps the entries of one caller from another's. Used by the engine's thread alone.

Behind the prefix an entry has the rows of one conversation: of the latest that exited where the
entry did. The next question of that conversation is sure to share them if its exit depends on
nothing that is read.
"""

from __future__ import annotations

import itertools
import operator
from array import array
from collections import OrderedDict

from dyvte.engine.foreseen import certain_depth
from dyvte.engine.sequence import RequestState, Sequence
from dyvte.exits.policy import Policy, Reads, exit_of, prune_of
from dyvte.kv_cache import KVCache
from dyvte.params import FinishReason
from dyvte.prefix import Memory, Passage, Source

Key = tuple[str, bytes, bytes]
"""Salt, content of the images, and the token ids up to the end of the last image."""

RUN_AGAIN = 2
"""Rows at the end of a prompt that run in any case: one alone would be summed in another order."""


class PrefixCache:
    """Entries up to ``max_bytes`` of keys, values and states; 0 keeps nothing.

    Of these the states, which lie outside the pool, take ``max_state_bytes`` at most (None: all),
    those of running sequences included.
    """

    def __init__(
        self, cache: KVCache, max_bytes: int = 0, max_state_bytes: int | None = None
    ) -> None:
        self.max_bytes = max_bytes
        self.max_state_bytes = max_bytes if max_state_bytes is None else max_state_bytes
        self._cache = cache
        self._ledger = cache.ledger
        self._ledger.give_up = self.lost
        self._entries: OrderedDict[Key, Memory] = OrderedDict()
        self._keys: dict[int, Key] = {}  # by the sequence that holds the rows
        self._names = itertools.count(-1, -1)
        self._takers: dict[int, Memory] = {}  # what each sequence in prefill takes rows from

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def held(self) -> int:
        """Bytes of all entries; rows of a running sequence are its own."""
        kept = [seq for seq in self._keys if seq < 0]
        pages = sum(self._ledger.held(seq) for seq in kept)
        return self._page_bytes(pages) + self.state_bytes

    @property
    def state_bytes(self) -> int:
        """Bytes of the hidden states of all entries."""
        return sum(entry.state_bytes for entry in self._entries.values())

    def key(self, state: RequestState) -> Key | None:
        """What a request's prefix is found by; None if it neither takes nor leaves one."""
        images = state.request.prompt.image_key
        if not self.max_bytes or images is None or not _shareable(state):
            return None
        ids = state.layout.token_ids[: state.layout.spans[-1].stop]
        return state.request.cache_salt, images, array("q", ids).tobytes()

    def rows(self, key: object) -> int:
        """Rows that a request with this key would not have to compute."""
        entry = self._entries.get(key)  # type: ignore[call-overload]
        return entry.prefix.stop if entry is not None else 0

    def look_up(self, sequence: Sequence) -> bool:
        """A sequence is about to be computed: show it its source. True if there is one."""
        key, owner = sequence.owner.prefix_key, sequence.owner
        self.let_go(sequence.seq)
        if key is None:
            return False
        source = sequence.source = self.source(sequence)
        if owner.trace is None:
            owner.prefix_hit = source is not None
        if source is not None:
            self._trim(source)
            self._takers[sequence.seq] = source.memory
            self._ledger.need(source.memory.seq)
            self._entries.move_to_end(key)
        return source is not None

    def source(self, sequence: Sequence) -> Source | None:
        """What a sequence would take if it were computed now. Changes nothing."""
        key = sequence.owner.prefix_key
        entry = None if key is None else self._entries.get(key)
        return None if entry is None else Source(entry, self._shared(sequence, entry))

    def _shared(self, sequence: Sequence, entry: Memory) -> int:
        """Rows behind the prefix that the sequence would compute alike."""
        if certain_depth(sequence.policy, self._ledger.num_layers) != entry.depth:
            return 0
        ids = sequence.ids_from(entry.prefix.stop)[:-RUN_AGAIN]
        alike = itertools.takewhile(bool, map(operator.eq, ids, entry.tail))
        return sum(1 for _ in alike)

    def _trim(self, source: Source) -> None:
        """Rows that a taker leaves are given up where nobody else takes any, so that it can write
        where they lie."""
        entry = source.memory
        if self._idle(entry):
            entry.tail = entry.tail[: source.tail]
            self._cache.cut(entry.seq, entry.rows_per_layer(self._ledger.num_layers))

    def note(self, sequence: Sequence, passage: Passage | None) -> None:
        """A prefill is over: remember what it computed, if nobody got as deep before.

        It takes no rows any more (``let_go``); what others are taking rows from is not replaced.
        """
        sequence.source = None
        key = sequence.owner.prefix_key
        entry = None if passage is None else passage.memory(sequence.seq)
        if key is None or entry is None or entry.state_bytes > self.max_state_bytes:
            return
        known = self._entries.get(key)
        if known is not None:
            # Who passed a prefill in flight may get deeper than what that is taking rows from.
            if known.depth >= entry.depth or self._taken(known):
                return
            self._forget(known.seq)
        self._entries[key] = entry
        self._keys[sequence.seq] = key
        self._shrink()
        if self.state_bytes > self.max_state_bytes:  # those in use alone fill it
            self._forget(sequence.seq)

    def retire(self, sequence: Sequence) -> None:
        """A sequence ends. What it holds of a prefix stays; the rest must still be released."""
        seq, key = sequence.seq, sequence.owner.prefix_key
        self.let_go(seq)
        entry = self._entries.get(key) if key is not None else None
        if entry is None or key is None:
            return
        tail = self._tail(sequence, entry)
        if entry.seq != seq:
            if not tail or not self._idle(entry):
                return
            del self._keys[entry.seq]
            self._cache.release(entry.seq)
        self._keys.pop(seq, None)
        entry.seq, entry.tail = next(self._names), tail
        self._keys[entry.seq] = key
        rows = entry.rows_per_layer(self._ledger.num_layers)
        self._cache.keep(seq, entry.seq, rows)
        if not self._idle(entry):
            self._ledger.need(entry.seq)
        self._shrink()

    def _tail(self, sequence: Sequence, entry: Memory) -> tuple[int, ...]:
        """The token ids behind the prefix that an ended sequence holds rows of, if these are an
        entry's and do not fill the cache by themselves."""
        held = self._cache.lengths(sequence.seq)
        tail = sequence.ids_from(entry.prefix.stop)[: max(0, held[0] - entry.prefix.stop)]
        wanted = [entry.rows(layer, len(tail)) for layer in range(len(held))]
        pages = sum(map(self._ledger.pages_for, wanted))
        size = self._page_bytes(pages) + entry.state_bytes
        whole = held == wanted and sequence.finish_reason is not FinishReason.ERROR
        return tail if whole and size <= self.max_bytes else ()

    def _page_bytes(self, pages: int) -> int:
        return pages * self._ledger.page_size * self._cache.row_bytes

    def lost(self, seq: int) -> None:
        """The pages of ``seq`` are taken away: so is its entry, if it is one's."""
        self._forget(seq)
        self._cache.release(seq)

    def clear(self) -> None:
        """Give up every entry."""
        for seq in list(self._keys):
            self._forget(seq)

    def _idle(self, entry: Memory) -> bool:
        """True if it is an entry, belongs to no running sequence, and nobody takes rows from it."""
        return entry.seq < 0 and entry.seq in self._keys and not self._taken(entry)

    def _taken(self, entry: Memory) -> bool:
        """True if the rows of a sequence in prefill come from it."""
        return any(each is entry for each in self._takers.values())

    def let_go(self, seq: int) -> None:
        """A sequence takes no rows any more: what it took from may go, if the budget wants that."""
        source = self._takers.pop(seq, None)
        if source is not None and self._idle(source):
            self._ledger.keep(source.seq)
            self._shrink()

    def _shrink(self) -> None:
        """Back into the budget; what is in use or belongs to a running sequence stays."""
        for entry in list(self._entries.values()):
            if self.held <= self.max_bytes and self.state_bytes <= self.max_state_bytes:
                return
            if self._idle(entry):
                self._forget(entry.seq)

    def _forget(self, seq: int) -> None:
        key = self._keys.pop(seq, None)
        if key is None:
            return
        del self._entries[key]
        if seq < 0:
            self._cache.release(seq)


def _shareable(state: RequestState) -> bool:
    """True if the rows before the question depend on nothing behind them.

    Rules that rank rows or look at attention may ask for any row at any layer. Gates see the text
    between the images and the last token, and earlier text where there is none.
    """
    layout = state.layout
    return (
        layout.visual_rows > 0
        and layout.rows - layout.spans[-1].stop > 1
        and _reads_no_view(state.policy)
    )


def _reads_no_view(policy: Policy) -> bool:
    return prune_of(policy) is None and exit_of(policy).reads is not Reads.VIEW
