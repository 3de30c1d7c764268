"""What every family with a stock ``transformers`` decoder shares: the decoder's side of an adapter.

A family adds what its parts are called, how pictures become rows and how positions are made.

Shapes: T rows, S segments, d hidden size, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from dyvte.attention import LayerContext
from dyvte.errors import ModelError
from dyvte.exits.gate import GateBank
from dyvte.flops import DecoderShape
from dyvte.models.adapter import ModelAdapter
from dyvte.models.projection import last_query_and_keys
from dyvte.models.vision.detail import LowDetail
from dyvte.models.vision.towers import check_levels

RunLayer = Callable[[Tensor, tuple[Tensor, Tensor], LayerContext], Tensor]


class DecoderAdapter(ModelAdapter):
    """Names the parts of a decoder loaded with our attention.

    ``model`` is the whole model as loaded, ``decoder`` the part of it with ``embed_tokens``,
    ``layers``, ``norm`` and ``rotary_emb``, ``head`` its LM head. Raises ModelError for a decoder
    whose answers packed rows would get wrong.
    """

    decoders: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2", "qwen3")

    def __init__(
        self, model: Any, decoder: Any, head: nn.Module, gates: GateBank | None = None
    ) -> None:
        self.model = model
        text = decoder.config
        check_decoder(self.family, text, self.decoders)
        self._layers = decoder.layers
        self._fused: list[RunLayer | None] = [None] * len(decoder.layers)
        self._embedding = decoder.embed_tokens
        self._rotary = decoder.rotary_emb
        self._norm = decoder.norm
        self._lm_head = head
        self.decoder_kind = str(text.model_type)
        self.dtype = model.dtype
        self.device = model.device
        self.max_positions = max_positions(text)
        self.eos_token_ids = frozenset(i for i in _eos(model, text) if i < text.vocab_size)
        self.decoder = decoder_shape(text)
        self.gates = gates
        if gates is not None:
            gates.check(self.decoder.hidden_size, self.decoder.num_layers)
            self.gates = gates.to(self.device)

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """The decoder's own table."""
        out: Tensor = self._embedding(token_ids)
        return out

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's own rotary embedding."""
        cos, sin = self._rotary(hidden[None], position_ids=positions.unsqueeze(-2))
        return cos, sin

    def run_layer(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], context: LayerContext
    ) -> Tensor:
        """The decoder's own layer over a batch of one packed row, or what was fused of it."""
        fused = self._fused[layer]
        if fused is not None and not hidden.requires_grad:
            return fused(hidden, rotary, context)
        out: Tensor = self._layers[layer](
            hidden[None], attention_mask=None, position_embeddings=rotary, packed=context
        )
        return out[0]

    def last_query_and_keys(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, float]:
        """Through the decoder's own norm and projections."""
        return last_query_and_keys(self._layers[layer], hidden, rotary)

    def head(self, hidden: Tensor) -> Tensor:
        """Norm over the asked rows only, then the head."""
        out: Tensor = self._lm_head(self._norm(hidden))
        return out

    def replace_linears(
        self,
        in_layers: Callable[[nn.Linear], nn.Module],
        in_head: Callable[[nn.Linear], nn.Module] | None,
    ) -> None:
        """Put what is made of each linear layer of the decoder in its place. Mutates the model.

        ``in_head`` (None: not) makes the head's; one that shares the embedding's weights stays.
        """
        for layer in self._layers:
            for parent in list(layer.modules()):
                for name, child in list(parent.named_children()):
                    if type(child) is nn.Linear:
                        setattr(parent, name, in_layers(child))
        head = self._lm_head
        if in_head is None or type(head) is not nn.Linear or self.shares_embedding(head.weight):
            return
        self._lm_head = in_head(head)
        for parent in list(self.model.modules()):
            for name, child in list(parent.named_children()):
                if child is head:
                    setattr(parent, name, self._lm_head)

    def fuse(
        self,
        make: Callable[[Any], RunLayer | None],
        in_head: Callable[[nn.Linear], nn.Module],
    ) -> None:
        """Run each layer through what ``make`` makes of it (None: as it is). Mutates the model.

        A head that shares the embedding's weights is read in every step, so it gets what
        ``in_head`` makes of it, a copy; the embedding keeps its own.
        """
        self._fused = [make(layer) for layer in self._layers]
        if type(self._lm_head) is nn.Linear:
            self._lm_head = in_head(self._lm_head)

    @property
    def fused(self) -> bool:
        """True if some layers run through what was made of them."""
        return any(each is not None for each in self._fused)

    def linears(self) -> Iterator[nn.Linear]:
        """The plain linear layers that ``replace_linears`` and ``fuse`` find, the head last."""
        modules = (each for layer in self._layers for each in layer.modules())
        return (each for each in (*modules, self._lm_head) if type(each) is nn.Linear)

    def shares_embedding(self, weight: Tensor) -> bool:
        """True for the weights of a head that are the embedding's."""
        return weight is self._embedding.weight

    def decoder_bytes(self) -> int:
        """Bytes of the layers, the last norm and the head: what a decode step reads."""
        return sum(
            p.numel() * p.element_size()
            for part in (self._layers, self._norm, self._lm_head)
            for p in part.parameters()
        )

    def parameter_bytes(self) -> int:
        """Bytes of all weights as loaded, and of a head that was copied."""
        held = {id(p): p for p in (*self.model.parameters(), *self._lm_head.parameters())}
        return sum(p.numel() * p.element_size() for p in held.values())


class NativeAdapter(DecoderAdapter):
    """A family that ``transformers`` has a class for.

    ``native`` is that class; ``image_frame`` the tokens that its processor puts around an image;
    ``image_settings`` what its processor asks of its image processor; ``low_detail`` what a
    picture of low detail changes there, None where all pictures have one size.
    """

    native: ClassVar[Any]
    image_frame: ClassVar[tuple[str, ...]] = ()
    image_settings: ClassVar[Mapping[str, Any]] = {}
    low_detail: ClassVar[LowDetail | None] = None

    def __init__(self, model: Any, gates: GateBank | None = None) -> None:
        super().__init__(model, model.model.language_model, model.lm_head, gates)
        levels = getattr(model.config, "vision_feature_layer", None)
        if levels is not None:
            layers = model.config.vision_config.num_hidden_layers
            check_levels(self.family, levels, layers)
            if levels == 0:  # transformers takes 0 for "no hidden states": say it from behind
                model.config.vision_feature_layer = -layers - 1


def decoder_shape(text: Any) -> DecoderShape:
    """The numbers of a decoder's config that decide its cost."""
    return DecoderShape(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_heads=text.num_attention_heads,
        num_kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab_size=text.vocab_size,
    )


def max_positions(text: Any) -> int:
    """Rows that a sequence may have.

    Our attention is full: inside a sliding window that is the same. A window that no layer uses
    (Qwen2 carries one and says ``use_sliding_window: false``) bounds nothing.
    """
    kinds = set(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None)
    if kinds and "sliding_attention" not in kinds:
        window = None
    return min(int(text.max_position_embeddings), window or sys.maxsize)


def check_decoder(family: str, text: Any, known: tuple[str, ...]) -> None:
    """Refuse decoders whose answers our rows would get wrong. Raises ModelError.

    Others scale embeddings or logits outside their layers; attention other than over the full
    past (or a window, see ``max_positions``) and rotary embeddings that change with the longest
    row of a batch need more than packed rows. ``dynamic`` scaling begins beyond
    ``max_position_embeddings``, which no sequence here passes.
    """
    if text.model_type not in known:
        raise ModelError(
            f"{family}: decoder {text.model_type!r} is not supported ({', '.join(known)})"
        )
    odd = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if odd:
        raise ModelError(f"decoder layers of type {', '.join(sorted(odd))} are not supported")
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope == "longrope":
        raise ModelError(f"rope_type {rope!r} changes with the longest row of a batch; unsupported")


def _eos(model: Any, text: Any) -> frozenset[int]:
    for config in (getattr(model, "generation_config", None), model.config, text):
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    raise ModelError("the model's config names no eos_token_id; set one in config.json")
