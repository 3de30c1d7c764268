"""What is known of a prefill before it runs: where its images leave, if that is certain, and an
upper bound of its work, in FLOPs of the decoder.

What joins running streams must fit their stall whole, so a guess would not do: nothing leaves that
need not, and what may come back from an earlier request's prefix comes back. Integers only.
"""

from __future__ import annotations

from dyvte.engine.sequence import Sequence
from dyvte.exits.policy import Policy, Reads, exit_of
from dyvte.flops import DecoderShape
from dyvte.prefix import Source


def foreseen(shape: DecoderShape, sequence: Sequence, source: Source | None) -> int:
    """All layers of its prompt; of rows that ``source`` has only what may run all the same."""
    rows = sequence.rows
    if source is None:
        return shape.num_layers * shape.layer(rows, rows)
    if source.tail:
        return shape.num_layers * shape.layer(rows - source.stop, rows)
    memory, prefix = source.memory, source.memory.prefix
    leaves, known = certain_depth(sequence.policy, shape.num_layers), memory.depth + 1
    text = rows - prefix.stop + len(prefix.between)
    gone = leaves is not None and leaves < known
    above = text if memory.images is None or gone else rows - prefix.start
    deeper = (shape.num_layers - known) * shape.layer(above, rows)
    return known * shape.layer(text, rows) + deeper


def certain_depth(policy: Policy, num_layers: int) -> int | None:
    """The last layer that will see the images; None if that depends on what is read there."""
    leave = exit_of(policy)
    for layer in filter(leave.may_fire, range(num_layers)):
        if leave.reads is not Reads.NOTHING:
            return None
        if leave.decide(layer, None):
            return layer
    return num_layers - 1
