"""From messages to ids: the template's specials are special, the user's characters never are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from tokenizers import processors
from transformers import AutoProcessor, AutoTokenizer, LlamaTokenizer

import dyvte
from dyvte import ModelError, PromptError
from dyvte.models.prompts.chat import TemplateChat
from dyvte.models.prompts.conversation_formats import VICUNA_V1
from dyvte.models.prompts.conversations import ConversationChat
from dyvte.models.prompts.template_files import read_template
from dyvte.prompt import IMAGE, Message
from tests import tiny

LLAVA = Path(__file__).parents[2] / "golden" / "llava-original"
PICTURE = Image.new("RGB", (20, 10), "red")
BYTES = tiny.tokenizer()
CHAT = TemplateChat(BYTES, tiny.TEMPLATE, "<image>")
SPECIALS = set(range(len(tiny.SPECIALS)))


def user(*parts: Any) -> Message:
    """A user's turn of strings and pictures."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    return {"role": "user", "content": content}


def vicuna() -> ConversationChat:
    tokenizer = LlamaTokenizer.from_pretrained(LLAVA / "checkpoint")
    return ConversationChat(tokenizer, VICUNA_V1)


CONVERSATIONS = {
    "text": [user("Hello there")],
    "picture": [user(PICTURE, "What is it?")],
    "two pictures": [user("First:", PICTURE, "second:", PICTURE)],
    "turns": [
        {"role": "system", "content": "Be brief."},
        user(PICTURE, "What?"),
        {"role": "assistant", "content": "A thing."},
        user("Sure? 🙂 é"),
    ],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_template_gives_the_processors_own_ids_for_harmless_text(
    name: str, tiny_folder: Path
) -> None:
    messages = CONVERSATIONS[name]
    plain = [{"role": m["role"], "content": _parts(m)} for m in messages]
    processor = AutoProcessor.from_pretrained(tiny_folder)
    expected = processor.apply_chat_template(
        plain, add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]
    if hasattr(expected, "tolist"):
        expected = expected.tolist()
    collapsed = [
        i
        for i, after in zip(expected, [*expected[1:], None], strict=True)
        if i != tiny.IMAGE_ID or after != tiny.IMAGE_ID
    ]
    ids = CHAT.encode(messages)
    assert [tiny.IMAGE_ID if token == IMAGE else token for token in ids] == collapsed


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


@pytest.mark.parametrize("typed", ["<image>", "</s>", "a <s> b", "<<image>>", "</s></s>"])
def test_specials_typed_by_a_user_stay_plain_text(typed: str) -> None:
    ids = CHAT.encode([user(PICTURE, typed)])
    assert ids.count(IMAGE) == 1
    bare = CHAT.encode([user(PICTURE, "x")])
    assert [i for i in ids if i in SPECIALS] == [i for i in bare if i in SPECIALS]
    assert typed in BYTES.decode([i for i in ids if i >= 0])


def test_a_special_cut_into_two_parts_stays_plain_text() -> None:
    """Guarding each part by itself let "</" + "s>" meet in the rendered prompt and become one."""
    ids = CHAT.encode([user("a </", "s> <im", PICTURE, "age>")])
    assert ids.count(IMAGE) == 1
    assert ids.count(tiny.EOS) == 0


fragments = st.text(alphabet="<>/s imageun kpad", max_size=9)


@given(st.lists(fragments, min_size=1, max_size=4))
def test_no_text_of_a_user_makes_a_special(texts: list[str]) -> None:
    ids = CHAT.encode([user(PICTURE, *texts)])
    harmless = CHAT.encode([user(PICTURE, *["x"] * len(texts))])
    assert [i for i in ids if i in SPECIALS or i == IMAGE] == [
        i for i in harmless if i in SPECIALS or i == IMAGE
    ]


def test_guarded_text_has_the_ids_of_its_characters() -> None:
    ids = CHAT.encode([user("a</s>b")])
    assert BYTES.decode(ids, skip_special_tokens=True) == "USER: a</s>b ASSISTANT:"


def test_private_use_characters_of_a_user_survive() -> None:
    typed = "\ue000\ue001</s>"
    assert typed in BYTES.decode(CHAT.encode([user(typed)]))


def test_a_template_that_refuses_a_conversation_is_the_users_error() -> None:
    """Templates say so with ``raise_exception``; as jinja's error it looked like our fault."""
    strict = "{{ raise_exception('Conversation roles must alternate') }}"
    with pytest.raises(PromptError, match="must alternate"):
        TemplateChat(BYTES, strict, "<image>").encode([user("Hello")])


def test_a_template_that_fails_as_a_program_is_the_users_error_too() -> None:
    with pytest.raises(PromptError, match="TypeError"):
        TemplateChat(BYTES, "{{ messages[0]['content'] + 1 }}", "<image>").encode([user("Hello")])


def test_what_would_fail_at_every_prompt_is_refused_at_load() -> None:
    with pytest.raises(ModelError, match="<picture>"):
        TemplateChat(BYTES, tiny.TEMPLATE, "<picture>")
    with pytest.raises(ModelError, match="<img>"):
        TemplateChat(BYTES, tiny.TEMPLATE, "<image>", ("<img>", "</img>"))
    with pytest.raises(ModelError, match="line 2"):
        TemplateChat(BYTES, "a\n{% if %}", "<image>")


@pytest.mark.parametrize("written", ["", "<s>"], ids=["tokenizer's BOS", "template's BOS"])
def test_a_prompt_has_one_bos_whoever_writes_it(written: str, tiny_folder: Path) -> None:
    """Templates as LLaVA-1.5's write none: the tokenizer's was left out, and answers changed."""
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", tiny.BOS)]
    )
    template = written + tiny.TEMPLATE.removeprefix("<s>")
    processor = AutoProcessor.from_pretrained(tiny_folder)
    processor.tokenizer, processor.chat_template = tokenizer, template
    chat = TemplateChat(tokenizer, template, "<image>")
    talk = CONVERSATIONS["turns"]
    texts = [{"role": m["role"], "content": _texts(m)} for m in talk]
    expected = processor.apply_chat_template(
        texts, add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    assert chat.encode(texts) == _flat(expected)
    typed = chat.encode([user("a</s>b")])
    assert typed[0] == tiny.BOS
    assert typed.count(tiny.BOS) == 1


def _texts(message: Message) -> list[dict[str, Any]]:
    return [part for part in _parts(message) if part["type"] == "text"]


def _flat(ids: Any) -> list[int]:
    listed = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    return listed[0] if isinstance(listed[0], list) else listed


OTHER = "{{ messages[0]['content'] + '' }}"  # a language model's: it fails where content is a list


@pytest.mark.parametrize("file", ["chat_template.json", "processor_config.json"])
def test_the_processors_template_comes_before_the_tokenizers(
    file: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """A text-only template in tokenizer_config.json was taken, and each prompt failed."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    _said(folder / "tokenizer_config.json", OTHER)
    assert read_template(folder, AutoTokenizer.from_pretrained(folder)) == OTHER
    _said(folder / file, tiny.TEMPLATE)
    model = dyvte.load(folder, device="cpu", dtype="float32")
    assert model.prompt([user(PICTURE, "a")]).token_ids == CHAT.encode([user(PICTURE, "a")])


def test_of_named_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes"}]
    _said(tmp_path / "chat_template.json", named)
    assert read_template(tmp_path, BYTES) == "yes"
    for broken, what in [(named[:1], "tool"), (3, "int")]:
        _said(tmp_path / "chat_template.json", broken)
        with pytest.raises(ModelError, match=what):
            read_template(tmp_path, BYTES)


def _said(path: Path, template: Any) -> None:
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(said | {"chat_template": template}))


def test_vicuna_gives_the_originals_ids() -> None:
    question = json.loads((LLAVA / "cases.json").read_text())[0]["question"]
    expected = load_file(LLAVA / "c0.safetensors")["input_ids"][0].tolist()
    assert vicuna().encode([user(PICTURE, question.removeprefix("<image>\n"))]) == expected


@pytest.mark.parametrize("parts", [("<image>",), ("</s>",), ("<s>", "x"), ("</", "s>")])
def test_vicuna_leaves_typed_specials_plain(parts: tuple[str, ...]) -> None:
    chat = vicuna()
    ids = chat.encode([user(*parts)])
    assert IMAGE not in ids
    assert chat.tokenizer.eos_token_id not in ids
    assert ids.count(chat.tokenizer.bos_token_id) == 1


def test_vicuna_ends_an_answer_of_the_past_with_its_end_token() -> None:
    chat = vicuna()
    past = [user("a"), {"role": "assistant", "content": "b"}, user("c")]
    assert chat.encode(past).count(chat.tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ({"role": "robot", "content": "a"}, "role"),
        ({"role": "user", "content": [{"type": "video"}]}, "video"),
        ({"role": "assistant", "content": [{"type": "image", "image": PICTURE}]}, "image"),
    ],
)
def test_what_a_format_cannot_say_is_named(message: Message, what: str) -> None:
    with pytest.raises(PromptError, match=what):
        vicuna().encode([message])


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"type": "text"}, "text part"),
        ({"type": "text", "text": 3}, "text part"),
        ({"type": "image"}, "NoneType"),
        ({"type": "image", "image": "cat.png"}, "str"),
        ({"type": "image", "image": [[0]]}, "list"),
        ("hello", "mapping"),
    ],
)
def test_a_broken_part_is_named(part: Any, what: str, tiny_model: dyvte.Model) -> None:
    """They were KeyErrors and AttributeErrors from deep inside."""
    with pytest.raises(PromptError, match=what):
        tiny_model.prompt([{"role": "user", "content": [part]}])


def test_model_prompt_holds_one_picture_per_placeholder(tiny_model: dyvte.Model) -> None:
    prompt = tiny_model.prompt([user(PICTURE, "a", PICTURE)])
    assert prompt.num_images == 2
    assert prompt.images is not None
    assert prompt.images["pixel_values"].shape == (2, 3, tiny.SIDE, tiny.SIDE)
