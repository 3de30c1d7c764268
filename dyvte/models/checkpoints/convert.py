"""An original checkpoint as a folder in ``transformers``' own layout, which then loads fast.

Written once, whole or not at all: everything goes into ``TARGET.partial``, which takes the
target's name at the end. No number is changed: tensors keep the types in which they are stored,
and pictures, prompts and gates come out as they did.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from dyvte.errors import ModelError
from dyvte.exits.files import GateCard, read_gates, write_gates
from dyvte.models import registry
from dyvte.models.checkpoints.meta import DEVICE
from dyvte.models.checkpoints.opened import quiet, read_config, refusing
from dyvte.models.checkpoints.shard_files import SHARD_BYTES, size_of, write_shards
from dyvte.models.originals.reader import Converter, NativeWeights
from dyvte.models.prompts.chat_template import chat_template

MARKER = ".dyvte-convert"
IMAGE, CONTEXT = "<image>", "<IMG_CONTEXT>"

# The names under which ``transformers`` stores vision-language models, behind those in memory.
_STORED = (
    ("lm_head.", "language_model.lm_head."),
    ("model.language_model.", "language_model.model."),
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A checkpoint that can be written: ``bytes`` of weights in ``tensors`` tensors."""

    source: Path
    native: NativeWeights

    @property
    def bytes(self) -> int:
        """Of all weights, as stored."""
        return sum(map(size_of, self.native.state.values()))

    def write(
        self, target: Path, progress: Callable[[int], None], limit: int = SHARD_BYTES
    ) -> None:
        """Write the folder; ``progress`` is told the bytes of weights done. Raises ModelError."""
        check_target(target)
        partial = _begin(target)
        native = self.native
        _write_words(partial, native)  # what may be refused comes before the long part
        stored = {_stored_name(name): tensor for name, tensor in native.state.items()}
        write_shards(partial, stored, progress, limit)
        _write_gates(partial, self.source, native)
        for file in partial.rglob("*.safetensors"):  # which are written for their owner alone
            shutil.copymode(partial / "config.json", file)
        (partial / MARKER).unlink()
        if target.exists():
            target.rmdir()
        partial.rename(target)


def read_conversion(source: Path, allow_pickle: bool = False) -> Conversion:
    """Everything of an original folder in native words. Raises ModelError for what has none."""
    config = read_config(source)
    with quiet():
        reader: object = registry.reader_of(config)
        if reader is None:
            registry.build_model(source, torch.float32)  # or it is refused as nothing we know
            raise ModelError(f"{source} is in transformers' layout already; it loads as it is")
        if not isinstance(reader, Converter):
            raise ModelError(
                f"{source}: transformers has no class for {registry.layout_of(config)} layout; "
                "the folder loads as it is"
            )
        native = reader.native_weights(source, config, allow_pickle)
        _check(source, native)
    native.config.dtype = registry.checkpoint_dtype(source)
    return Conversion(source, native)


def check_target(target: Path) -> None:
    """Raise ModelError unless ``target`` is new or an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} exists and is not an empty folder; name another one")


def _begin(target: Path) -> Path:
    """An empty ``TARGET.partial``; one that an earlier run left is begun anew."""
    partial = target.with_name(f"{target.name}.partial")
    if partial.exists():
        if not (partial / MARKER).exists():
            raise ModelError(f"{partial} is in the way and not ours; remove it or name another DST")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    (partial / MARKER).touch()
    return partial


def _check(source: Path, native: NativeWeights) -> None:
    """Every tensor of the class is there in its shape, and no other. Raises ModelError."""
    with DEVICE:
        model = AutoModelForImageTextToText.from_config(native.config)
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if native.config.tie_word_embeddings:
        own.pop("lm_head.weight", None)
    found = {name: tensor.shape for name, tensor in native.state.items()}
    odd = sorted(own.keys() ^ found.keys()) or sorted(n for n in own if own[n] != found[n])
    if odd:
        raise ModelError(
            f"{source}: tensors do not match {type(model).__name__} ({', '.join(odd[:3])}, …)"
        )


def _stored_name(name: str) -> str:
    for inside, stored in _STORED:
        if name.startswith(inside):
            return stored + name.removeprefix(inside)
    return name.removeprefix("model.")


def _write_words(folder: Path, native: NativeWeights) -> None:
    """Configs, tokenizer with its chat template, image processor."""
    config, tokenizer = native.config, native.tokenizer
    with refusing(folder), quiet():
        parts = [native.image_processor]
        if tokenizer is not None and native.conversation is not None:
            token = image_token(tokenizer, config)
            config.image_token_id = tokenizer.convert_tokens_to_ids(token)
            fast = _fast(tokenizer, token)
            fast.chat_template = chat_template(native.conversation, tokenizer, token)
            whole = native.image_processor is not None and config.model_type == "llava"
            parts = [_llava_processor(native, fast)] if whole else [*parts, fast]
        with DEVICE:
            config.architectures = [type(AutoModelForImageTextToText.from_config(config)).__name__]
        for part in (*parts, config, native.generation):
            if part is not None:
                part.save_pretrained(folder)


def image_token(tokenizer: Any, config: Any) -> str:
    """The special token that stands for an image, with an id that has an embedding.

    Original LLaVA code uses a number that is no token at all. A row more in the embedding and in
    the head would change what a model can say, so the token takes an id that is there: a spare
    one behind the tokenizer's own, or that of the unknown token, which a tokenizer with bytes for
    all it does not know never gives to a text. Raises ModelError.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    unknown = tokenizer.unk_token
    if CONTEXT in vocabulary:  # InternVL's own
        return CONTEXT
    if len(tokenizer) < config.text_config.vocab_size and max(vocabulary.values()) < len(tokenizer):
        return IMAGE
    if unknown is not None and "<0x00>" in vocabulary:
        return str(unknown)
    raise ModelError("the tokenizer has no id to spare for images; the folder loads as it is")


def _fast(tokenizer: Any, image: str) -> PreTrainedTokenizerFast:
    """The same tokenizer as its file alone says it, with the image's token and another padding."""
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    specials = {name: getattr(tokenizer, name) for name in names}
    if specials["pad_token"] == image:  # padding must not look like an image
        specials["pad_token"] = specials["eos_token"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        extra_special_tokens={"image_token": image},
        clean_up_tokenization_spaces=False,
        model_max_length=tokenizer.model_max_length,
        **specials,
    )


def _llava_processor(native: NativeWeights, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The class's whole processor: tokenizer, template and pictures."""
    from transformers import LlavaProcessor

    vision = native.config.vision_config
    return LlavaProcessor(
        image_processor=native.image_processor,
        tokenizer=tokenizer,
        patch_size=vision.patch_size
        if isinstance(vision.patch_size, int)
        else vision.patch_size[0],
        vision_feature_select_strategy=native.config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # the class token, which the strategy drops
        chat_template=tokenizer.chat_template,
        image_token=tokenizer.image_token,
    )


def _write_gates(folder: Path, source: Path, native: NativeWeights) -> None:
    """Gates inside the weights become a gate folder; those beside them are laid over them."""
    text, beside = native.config.text_config, source / "gates"
    bank, card = read_gates(beside, native.gates) if beside.is_dir() else (native.gates, None)
    if bank is None and card is None:
        return
    layers = tuple(sorted(bank.layers)) if bank is not None else ()
    inside = "as published inside the checkpoint" if native.gates is not None else ""
    sizes = text.hidden_size, text.num_hidden_layers
    write_gates(folder / "gates", bank, card or GateCard(*sizes, layers, trained_on=inside))


def dtypes(tensors: Iterable[torch.Tensor]) -> str:
    """E.g. ``float16`` or ``float16, float32``."""
    return ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))
