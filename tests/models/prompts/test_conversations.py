"""Conversation formats of original code: what is said around turns, and what users cannot say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from dyvte import ModelError
from dyvte.models.originals.tokenizers import read_tokenizer
from dyvte.models.prompts.conversation_formats import (
    INTERNVL,
    LLAMA_3,
    LLAMA_3_ROWS,
    VICUNA_V1,
    VILA_HERMES_2,
    internvl_format,
)
from dyvte.models.prompts.conversations import Conversation, ConversationChat
from dyvte.prompt import IMAGE
from tests import tiny
from tests.models.families.family import picture, says

LLAVA = Path(__file__).parents[2] / "golden" / "llava-original"
SPECIALS = (
    *("<s>", "</s>", "<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>", "<|im_end|>"),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|end_of_text|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
FORMATS = {
    "vicuna_v1": VICUNA_V1,
    "llama_3": LLAMA_3,
    "llama_3 since December 2024": LLAMA_3_ROWS,
    "hermes-2": VILA_HERMES_2,
    **INTERNVL,
}
PICTURE = picture(8, 8)


def tokenizer(special: bool = True) -> PreTrainedTokenizerFast:
    """Every byte is a token; ``special`` False adds the tokens as ordinary ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: index for index, piece in enumerate(["<unk>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    made.add_tokens([AddedToken(each, special=special, normalized=False) for each in SPECIALS])
    return made


BYTES = tokenizer()
ADDED = set(BYTES.added_tokens_decoder)


def spelled(form: Conversation, messages: list[dict[str, Any]]) -> str:
    ids = ConversationChat(BYTES, form).encode(messages)
    return "".join("<image>" if i == IMAGE else BYTES.decode([i]) for i in ids)


TALK = [
    says("system", "Be brief."),
    says("user", PICTURE, "What?"),
    says("assistant", "A cat."),
    says("user", "Why?"),
]


def test_vicuna() -> None:
    assert spelled(VICUNA_V1, TALK) == (
        "Be brief. USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Why? ASSISTANT:"
    )


def test_llama_3_of_vila() -> None:
    """The answer's role is ``system`` in the code that VILA-1.5 was made with."""
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    system, user = head.format("system"), head.format("user")
    end = "<|end_of_text|>"
    assert spelled(LLAMA_3, TALK) == (
        f"<|begin_of_text|>{system}Be brief.{end}{user}<image>\nWhat?{end}"
        f"{system}A cat.{end}{user}Why?{end}{system}"
    )


def test_internvl() -> None:
    frame = "<img><image></img>\nWhat?"
    assert spelled(INTERNVL["internlm2-chat"], TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>"
        f"<|im_start|>user\n{frame}<|im_end|><|im_start|>assistant\nA cat.<|im_end|>"
        "<|im_start|>user\nWhy?<|im_end|><|im_start|>assistant\n"
    )
    assert spelled(INTERNVL["internvl2_5"], TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n{frame}<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert spelled(INTERNVL["phi3-chat"], TALK) == (
        f"<|system|>\nBe brief.<|end|><|user|>\n{frame}<|end|>"
        "<|assistant|>\nA cat.<|end|><|user|>\nWhy?<|end|><|assistant|>\n"
    )
    assert spelled(INTERNVL["internvl_zh"], TALK[1:]) == (
        f" <human>: {frame} <bot>: A cat.</s><human>: Why? <bot>:"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_no_special_that_a_user_types_is_one(name: str) -> None:
    """Whole, cut into two parts, and in the system message."""
    chat = ConversationChat(BYTES, FORMATS[name])
    plain = chat.encode([says("system", "x"), says("user", PICTURE, "x")])
    for token in (*SPECIALS, "<image>"):
        typed = [says("system", token), says("user", PICTURE, f"a {token[:3]}", f"{token[3:]} b")]
        ids = chat.encode(typed)
        assert [i for i in ids if i in ADDED or i < 0] == [i for i in plain if i in ADDED or i < 0]
        assert f"a {token} b" in BYTES.decode([i for i in ids if i >= 0])


def test_added_tokens_that_are_not_marked_special_stay_text_too() -> None:
    ordinary = tokenizer(special=False)
    chat = ConversationChat(ordinary, INTERNVL["Hermes-2"])
    plain = chat.encode([says("user", PICTURE, "x")])
    ids = chat.encode([says("user", PICTURE, "a <img></img><IMG_CONTEXT> b")])
    added = set(ordinary.added_tokens_decoder)
    assert [i for i in ids if i in added] == [i for i in plain if i in added]
    assert "a <img></img><IMG_CONTEXT> b" in ordinary.decode([i for i in ids if i >= 0])


def test_images_come_first_unless_text_is_woven_between_them() -> None:
    form = VILA_HERMES_2
    assert "user\n<image>\nWhat?<" in spelled(form, [says("user", "What?", PICTURE)])
    both = says("user", "Two: ", PICTURE, PICTURE)
    assert "user\n<image>\n<image>\nTwo: <" in spelled(form, [both])
    woven = says("user", "a", PICTURE, "b", PICTURE, "c")
    assert "user\na<image>\nb<image>\nc<" in spelled(form, [woven])


def test_an_image_between_texts_stays_there() -> None:
    """It came first, and the two texts ran into one word: "leftright"."""
    between = says("user", "left", PICTURE, "right")
    assert "USER: left<image>\nright ASSISTANT" in spelled(VICUNA_V1, [between])


def test_text_behind_an_answer_is_tokenised_as_in_the_whole_prompt() -> None:
    """Piece by piece, text behind "</s>" began with a space that the original's has not."""
    tiny_llama = LlamaTokenizer.from_pretrained(LLAVA / "checkpoint")
    ids = ConversationChat(tiny_llama, VICUNA_V1).encode([TALK[0], *TALK[2:]])
    whole = "Be brief. ASSISTANT: A cat.</s>USER: Why? ASSISTANT:"
    assert ids == tiny_llama(whole)["input_ids"]


@pytest.mark.parametrize(("name", "stops"), [("internvl2_5", ["<|im_end|>"]), ("llama_3", None)])
def test_answers_stop_where_the_format_says(name: str, stops: list[str] | None) -> None:
    chat = ConversationChat(BYTES, FORMATS[name])
    expected = stops or ["<|end_of_text|>", "<|eot_id|>"]
    assert chat.stop_ids == set(BYTES.convert_tokens_to_ids(expected))
    unknowing = ConversationChat(tiny.tokenizer(), LLAMA_3)
    assert unknowing.stop_ids == frozenset()


@pytest.mark.parametrize("said", [None, True, False])
def test_an_original_tokenizer_begins_with_bos_unless_told_otherwise(
    said: bool | None, tmp_path: Path
) -> None:
    """Without ``add_bos_token`` in its settings, prompts went out without their BOS."""
    for file in ("tokenizer.model", "special_tokens_map.json", "tokenizer_config.json"):
        shutil.copy(LLAVA / "checkpoint" / file, tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["add_bos_token"]
    path.write_text(json.dumps(settings if said is None else settings | {"add_bos_token": said}))
    found = read_tokenizer(tmp_path)
    assert found is not None
    begins = found("a")["input_ids"][0] == found.bos_token_id
    assert begins is (said is not False)
    ids = ConversationChat(found, VICUNA_V1).encode([says("user", "x")])
    assert ids.count(found.bos_token_id) == begins


def test_a_tokenizer_without_the_frame_and_an_unknown_format_are_refused() -> None:
    with pytest.raises(ModelError, match="<img>"):
        ConversationChat(tiny.tokenizer(), INTERNVL["Hermes-2"])
    with pytest.raises(ModelError, match=r"mystery.*internvl2_5"):
        internvl_format("mystery")
