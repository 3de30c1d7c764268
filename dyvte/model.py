"""A loaded model as a user of the library holds it: ``dyvte.load`` and what it returns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dyvte import cpu
from dyvte.errors import ModelError, OptionError, PromptError
from dyvte.exits.files import GateCard
from dyvte.exits.gate import GateBank
from dyvte.exits.grants import Grants
from dyvte.exits.offers import Offers
from dyvte.models import registry
from dyvte.models.adapter import ModelAdapter
from dyvte.models.checkpoints.opened import Opened, ReadOptions
from dyvte.models.gates import choose_gates
from dyvte.models.prompts.chat import ChatFormat, encode, images_of
from dyvte.models.prompts.tokens import TokenBytes
from dyvte.models.quantized import check_weights, give_form
from dyvte.models.vision.images import ProcessImages
from dyvte.prompt import Message, Prompt
from dyvte.tools import Tool

log = logging.getLogger("dyvte.models")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Model:
    """An adapter, its gates, and the way from messages to prompts and from ids to text.

    ``notes`` are what the reader of its folder had to decide. ``weights`` is the form of the
    decoder's linear layers, or the library that rounded them before they were stored.
    """

    adapter: ModelAdapter
    name: str
    tokenizer: Any | None = None
    chat: ChatFormat | None = None
    process_images: ProcessImages | None = None
    token_bytes: TokenBytes | None = None
    gate_card: GateCard | None = None
    offers: Offers = field(default_factory=Offers)
    notes: tuple[str, ...] = ()
    weights: str = "auto"

    @property
    def gates(self) -> GateBank | None:
        """The gates in use."""
        return self.adapter.gates

    @property
    def grants(self) -> Grants:
        """What requests may ask of this model."""
        gated = self.gates.layers if self.gates else frozenset()
        return Grants(self.adapter.decoder.num_layers, gated, self.offers)

    def check_chat(self) -> None:
        """Raise ModelError unless messages can become prompts."""
        if self.chat is not None:
            return
        if self.tokenizer is None:
            what = "no tokenizer (tokenizer.json, tokenizer.model or vocab.json)"
        else:
            what = "a tokenizer but no chat template (chat_template.jinja or chat_template.json)"
        raise ModelError(
            f"{self.name}: has {what}, so nobody could send it a message; copy the missing files "
            "from where the weights came from"
        )

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        """Chat messages with PIL images → a processed prompt. Raises PromptError.

        An image part may say its ``detail``, one of ``dyvte.prompt.DETAILS``.

        ``tools`` are told to the model as ``dyvte.tools`` says.
        """
        if self.chat is None:
            raise PromptError(
                "this model has no tokenizer or no chat template; build a Prompt of ids"
            )
        if not messages:
            raise PromptError("messages is empty: give at least one")
        shown = images_of(messages)
        ids = encode(self.chat, messages, tools)
        turns = max(1, sum(message.get("role") == "user" for message in messages))
        if not shown:
            return Prompt(ids, user_turns=turns)
        if self.process_images is None:
            raise PromptError("this model has no image processor; it takes text only")
        pictures, details = zip(*shown, strict=True)
        return Prompt(ids, self.process_images(pictures, details), turns)

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Ids of plain text: characters that spell a special token stay characters.

        ``special``: with what the tokenizer puts around every text. Raises PromptError.
        """
        if self.tokenizer is None:
            raise PromptError("this model has no tokenizer")
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=special, split_special_tokens=True, verbose=False
        )["input_ids"]
        return ids

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of any ids, specials written out. Raises PromptError."""
        if self.tokenizer is None:
            raise PromptError("this model has no tokenizer")
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of generated ids (empty without a tokenizer)."""
        return self.token_bytes.text(list(token_ids)) if self.token_bytes else ""


def load(
    name: str | Path,
    gates: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    foreign_gates: bool = False,
    allow_pickle: bool = False,
    token_order: str | None = None,
    weights: str = "auto",
) -> Model:
    """Load ``demo``, a model folder or a hub id; ``gates`` names a gate folder or file.

    Gates made for another model are refused unless ``foreign_gates``; then they exit and promise
    nothing. Weights in pickled files are refused unless ``allow_pickle``, and then read as tensors
    only. ``token_order`` ("rows", "columns") overrides what VILA's reader finds out by itself.
    ``device`` "auto" takes CUDA where there is some. ``dtype`` "auto" keeps a 16-bit checkpoint
    in 16 bit where the device computes in it, else takes float32. ``weights`` is the form of the
    decoder's linear layers: "auto", "plain" (as ``transformers`` made them: take this to train
    them), "int8" (``dyvte.models.linear``), or rounded by a library that is an extra:
    "torchao-int8", "bnb-int8", "bnb-nf4" (``dyvte.models.quantized``). Raises ModelError,
    OptionError.
    """
    options = ReadOptions(allow_pickle, token_order)
    folder = registry.find(str(name), allow_pickle)
    stored = registry.stored_by(folder)
    check_weights(weights, stored)
    where = _device(device)
    opened = registry.open_model(folder, where, _dtype(dtype, where, folder), options)
    for note in opened.notes:
        log.info("%s: %s", name, note)
    model = _with_gates(opened, str(name), gates, foreign_gates)
    give_form(model.adapter, weights)
    return replace(model, weights=stored or weights)


def build(
    name: str | Path,
    gates: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    foreign_gates: bool = False,
    allow_pickle: bool = False,
    token_order: str | None = None,
) -> Model:
    """As ``load``, from configs alone: on the meta device, without tokenizer and chat format.

    It has every size and computes nothing. ``device`` chooses what ``dtype`` "auto" means and
    need not be there; whose gates these are is not checked. Raises ModelError, OptionError.
    """
    options = ReadOptions(allow_pickle, token_order)
    folder = registry.find(str(name), weights=False)
    where = _device(device, must_be_there=False)
    opened = registry.build_model(folder, _dtype(dtype, where, folder), options)
    return _with_gates(opened, str(name), gates, foreign_gates)


def _with_gates(opened: Opened, name: str, gates: str | Path | None, foreign_gates: bool) -> Model:
    adapter = opened.adapter
    chosen = choose_gates(adapter, Path(name).name, opened.folder, gates, foreign_gates)
    if chosen.bank is not None:
        adapter.gates = chosen.bank.to(adapter.device)
    return Model(
        adapter=adapter,
        name=name,
        tokenizer=opened.tokenizer,
        chat=opened.chat,
        process_images=opened.process_images,
        token_bytes=TokenBytes(opened.tokenizer) if opened.tokenizer is not None else None,
        gate_card=chosen.card,
        offers=chosen.offers,
        notes=opened.notes,
    )


def _device(name: str, must_be_there: bool = True) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError("device", f"{name!r} is not a device; use auto, cpu or cuda") from error
    if must_be_there and device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError("device", "no CUDA device is available here; use auto or cpu")
    return device


def _dtype(name: str, device: torch.device, folder: Path) -> torch.dtype:
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise OptionError("dtype", f"{name!r} is not a type; use auto, {', '.join(DTYPES)}")
    stored = registry.checkpoint_dtype(folder)
    if stored not in (torch.float16, torch.bfloat16):
        return torch.float32
    if device.type == "cuda":
        return stored
    return torch.bfloat16 if cpu.computes_bf16() else torch.float32
