"""What the tests of native families share: a family in tiny, and its own path in ``transformers``.

A family is one ``Family`` in a file of its own, listed in ``everyone.py``; ``test_families.py``
then runs every claim over it. The decoder of each is that of ``tiny`` (four layers, 32 wide), so
that ``tiny.gates`` fit all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import dyvte
from dyvte.exits.files import GateCard, write_gates
from dyvte.prompt import IMAGE, Message
from tests import tiny

CONTEXT = 1024
VOCAB = 288
PLAIN = ("<unk>", "<s>", "</s>", "<pad>")
EOS = PLAIN.index("</s>")


def token_id(name: str, specials: Mapping[str, str]) -> int:
    """The id of one of a family's special tokens: they follow the plain ones, in order."""
    return len(PLAIN) + list(specials.values()).index(name)


def decoder(config: Callable[..., Any], **settings: Any) -> Any:
    """The decoder of ``tiny`` in a config class: four layers, grouped queries, wide weights."""
    return config(
        vocab_size=VOCAB,
        hidden_size=tiny.HIDDEN,
        intermediate_size=48,
        num_hidden_layers=tiny.LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=PLAIN.index("<s>"),
        eos_token_id=EOS,
        **{"initializer_range": 0.25, **settings},
    )


def template(image: str, bos: str = "<s>") -> str:
    """A chat template that writes ``bos``, and ``image`` for each image part."""
    return (
        bos + "{% for message in messages %}{{ message['role'].upper() }}: "
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% if message['role'] == 'assistant' %}</s>{% else %} {% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


def without_video(processor: type[Any]) -> type[Any]:
    """A processor class that asks for no video processor: those need torchvision.

    All that it does with images and text stays its own.
    """
    kept = [name for name in processor.get_attributes() if name != "video_processor"]
    return type(processor.__name__, (processor,), {"get_attributes": classmethod(lambda _: kept)})


@dataclass(frozen=True)
class Family:
    """One family in tiny.

    ``config()`` is the model's configuration (built with ``decoder``, ``token_id``; any
    ``initializer_range`` that decides greedy choices clearly), ``image_processor()`` the PIL one,
    ``specials`` the tokenizer's special tokens by the attribute that the family's processor looks
    for, ``image_token`` the one that stands for a visual row, ``image_text`` what the chat template
    writes for an image (None: the image token). ``processor(image_processor, tokenizer, template)``
    is the family's own, through which the reference's inputs are made.
    """

    name: str
    native: Any
    config: Callable[[], Any]
    image_processor: Callable[[], Any]
    processor: Callable[[Any, Any, str], Any]
    specials: Mapping[str, str]
    image_token: str
    image_text: str | None = None
    prepare: Callable[[Any], None] | None = None  # called with the model before it is saved
    tokenizer_adds_bos: bool = False  # else the template writes it

    @property
    def template(self) -> str:
        bos = "" if self.tokenizer_adds_bos else "<s>"
        return template(self.image_text or self.image_token, bos)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Every byte is a token; the plain specials come first, then the family's."""
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        pieces = [*PLAIN, *self.specials.values(), *alphabet]
        vocab = {piece: index for index, piece in enumerate(pieces)}
        assert len(vocab) <= VOCAB
        backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        if self.tokenizer_adds_bos:
            bos = ("<s>", PLAIN.index("<s>"))
            backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[bos])
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            extra_special_tokens=dict(self.specials),
        )

    def save(self, folder: Path) -> Path:
        """Model, tokenizer with its template, image processor and gates, as a native folder."""
        torch.manual_seed(0)
        model = self.native(self.config()).eval()
        model.generation_config.eos_token_id = EOS
        if self.prepare is not None:
            self.prepare(model)
        model.save_pretrained(folder)
        tokenizer = self.tokenizer()
        tokenizer.chat_template = self.template
        tokenizer.save_pretrained(folder)
        self.image_processor().save_pretrained(folder)
        bank = tiny.gates()
        card = GateCard(tiny.HIDDEN, tiny.LAYERS, tuple(sorted(bank.layers)))
        write_gates(folder / "gates", bank, card)
        return folder


@dataclass
class Made:
    """A saved family, through ``dyvte.load`` (``model``) and through ``transformers``."""

    family: Family
    folder: Path

    @cached_property
    def model(self) -> dyvte.Model:
        return dyvte.load(self.folder, device="cpu", dtype="float32")

    @cached_property
    def plain(self) -> dyvte.Model:
        """Computed by ``transformers``, layer by layer."""
        return dyvte.load(self.folder, device="cpu", dtype="float32", weights="plain")

    @cached_property
    def reference(self) -> Any:
        family = self.family
        return family.native.from_pretrained(self.folder, attn_implementation="eager").eval()

    @cached_property
    def processor(self) -> Any:
        family = self.family
        return family.processor(family.image_processor(), family.tokenizer(), family.template)

    def inputs(self, messages: Sequence[Message]) -> dict[str, Any]:
        """What the class's ``generate`` takes, by the family's own processor."""
        bare = [
            {**m, "content": [_without_pixels(part) for part in m["content"]]} for m in messages
        ]
        text = self.processor.apply_chat_template(bare, add_generation_prompt=True, tokenize=False)
        pictures = [p["image"] for m in messages for p in m["content"] if p["type"] == "image"]
        images = {"images": [pictures]} if pictures else {}
        return dict(self.processor(text=[text], return_tensors="pt", **images))

    def expanded(self, messages: Sequence[Message]) -> list[int]:
        """Our rows of a prompt as ids, with the family's image token on the visual ones."""
        layout = self.model.adapter.layout(self.model.prompt(messages))
        image = token_id(self.family.image_token, self.family.specials)
        return [image if token == IMAGE else token for token in layout.token_ids]

    @torch.inference_mode()
    def logits(
        self,
        inputs: Mapping[str, Any],
        more: Sequence[int] = (),
        exit_layer: int | None = None,
        leaving: Tensor | None = None,
    ) -> Tensor:
        """``[1 + len(more), vocab]``: what the class predicts behind the prompt and each next id.

        One run over all rows. With ``exit_layer`` no row sees a visual key in any later layer (the
        oracle of an exit), or none of those in ``leaving [rows]`` (bool; the oracle of pruning):
        the class itself runs, with its own positions; each of those layers gets another mask.
        """
        given = extended(inputs, more)
        if leaving is None:
            image = token_id(self.family.image_token, self.family.specials)
            leaving = given["input_ids"][0] == image
        layers = self.reference.model.language_model.layers
        hooks = [
            layer.register_forward_pre_hook(_masking(leaving), with_kwargs=True)
            for layer in (layers[exit_layer + 1 :] if exit_layer is not None else [])
        ]
        try:
            logits: Tensor = self.reference(**given, use_cache=False).logits[0, -1 - len(more) :]
        finally:
            for hook in hooks:
                hook.remove()
        return logits


def _without_pixels(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "image"} if part["type"] == "image" else part


def _masking(visual: Tensor) -> Callable[..., Any]:
    """A hook that runs a layer under a causal mask in which the ``visual`` keys are hidden."""
    rows = len(visual)
    seen = torch.ones(rows, rows, dtype=torch.bool).tril()
    seen &= ~visual
    seen |= torch.eye(rows, dtype=torch.bool)  # else a visual row that begins the prompt is NaN
    mask = torch.zeros(1, 1, rows, rows).masked_fill(~seen, torch.finfo(torch.float32).min)

    def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        assert "attention_mask" in kwargs
        return args, {**kwargs, "attention_mask": mask}

    return hook


def extended(inputs: Mapping[str, Any], more: Sequence[int]) -> dict[str, Any]:
    """Inputs with generated ids behind the prompt (text to every mask that goes with the ids)."""
    given = dict(inputs)
    ids = given["input_ids"]
    behind = {"input_ids": torch.tensor([list(more)], dtype=ids.dtype)}
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == ids.shape and more:
            filler = torch.full((1, len(more)), int(name == "attention_mask"), dtype=value.dtype)
            given[name] = torch.cat([value, behind.get(name, filler)], dim=1)
    return given


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coloured noise: every tile of it says something else."""
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


def says(role: str, *parts: Image.Image | str) -> dict[str, Any]:
    """One message of pictures and texts."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    return {"role": role, "content": content}


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one image": [says("user", picture(40, 30), "what is it?")],
    "two images": [says("user", picture(52, 20, 1), picture(18, 40, 2), "which is red?")],
    "text only": [says("user", "hello")],
    "two turns": [
        says("user", picture(33, 47, 3), "what is it?"),
        says("assistant", "a cat"),
        says("user", "why?"),
    ],
}
PICTURED = [name for name in CONVERSATIONS if name != "text only"]
