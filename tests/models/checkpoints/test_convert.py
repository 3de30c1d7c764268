"""A converted checkpoint says and sees what the original does, and is one for ``transformers``."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlamaTokenizer, LlavaForConditionalGeneration

import dyvte
from dyvte import ExitOptions, ModelError, Prompt, PromptError, SamplingParams
from dyvte.models.checkpoints.convert import read_conversion
from dyvte.models.checkpoints.shard_files import shards
from dyvte.models.parts import origin_of
from dyvte.models.prompts.chat import TemplateChat
from dyvte.models.prompts.chat_template import chat_template
from dyvte.models.prompts.conversation_formats import INTERNVL as INTERNVL_FORMATS
from dyvte.models.prompts.conversation_formats import VICUNA_V1
from dyvte.models.prompts.conversations import Conversation, ConversationChat
from tests import tiny
from tests.golden import test_dyvte_llava as dyvte_llava
from tests.golden import test_llava_original as llava

GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, return_logits=True)
SOURCES = {"llava": llava.HERE / "checkpoint", "dyvte": dyvte_llava.HERE / "checkpoint"}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("converted")
    done: list[int] = []
    for name, source in SOURCES.items():
        conversion = read_conversion(source)
        conversion.write(root / name, done.append, limit=100_000)
        assert done[-1] == conversion.bytes
    return {name: root / name for name in SOURCES}


@cache
def loaded(folder: Path) -> dyvte.Model:
    return dyvte.load(folder, device="cpu", dtype="float32")


def picture(name: str = "img0") -> Image.Image:
    return Image.open(llava.HERE / f"{name}.png")


@pytest.mark.parametrize("case", llava.CASES, ids=llava.NAMES)
def test_logits_and_ids_are_the_originals(case: dict[str, Any], converted: dict[str, Path]) -> None:
    before, after = (
        dyvte.generate(model, llava.prompt_of(case), GREEDY)[0]
        for model in (loaded(SOURCES["llava"]), loaded(converted["llava"]))
    )
    assert after.token_ids == before.token_ids
    assert before.logits is not None
    assert after.logits is not None
    assert torch.equal(after.logits, before.logits)
    llava.assert_as_original(after, case)


@pytest.mark.parametrize("name", ["a", "b"])
def test_gates_inside_a_checkpoint_go_along(name: str, converted: dict[str, Path]) -> None:
    assert (converted["dyvte"] / "gates" / "gates.json").exists()
    before, after = (
        dyvte.generate(model, dyvte_llava.prompt_of(name), GREEDY, ExitOptions())[0]
        for model in (loaded(SOURCES["dyvte"]), loaded(converted["dyvte"]))
    )
    assert (after.exit_layer, after.token_ids) == (before.exit_layer, before.token_ids)
    assert before.gate_logits is not None
    assert after.gate_logits is not None
    assert torch.equal(after.gate_logits, before.gate_logits)


def test_weights_are_cut_into_files_and_keep_their_types(converted: dict[str, Path]) -> None:
    files = sorted(converted["llava"].glob("*.safetensors"))
    assert len(files) == 4
    assert (converted["llava"] / "model.safetensors.index.json").exists()
    assert {file.stat().st_mode for file in files} == {
        (converted["llava"] / "config.json").stat().st_mode
    }
    assert {t.dtype for file in files for t in load_file(file).values()} == {torch.float16}
    assert shards({"a": torch.zeros(9), "b": torch.zeros(1), "c": torch.zeros(2)}, limit=12) == [
        ["a"],
        ["b", "c"],
    ]


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


IMAGE_PART = {"type": "image", "image": None}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one image": [{"role": "user", "content": [IMAGE_PART, text("What is it?")]}],
    "image last": [{"role": "user", "content": [text("What is it?"), IMAGE_PART]}],
    "image between": [{"role": "user", "content": [text("In "), IMAGE_PART, text(", what?")]}],
    "two images": [{"role": "user", "content": [IMAGE_PART, IMAGE_PART, text(" Same?")]}],
    "woven": [{"role": "user", "content": [IMAGE_PART, text("Is it "), IMAGE_PART, text("?")]}],
    "woven late": [{"role": "user", "content": [text("a"), IMAGE_PART, text("b"), IMAGE_PART]}],
    "text only": [{"role": "user", "content": "Hello  there"}],
    "system": [
        {"role": "system", "content": "Be short.\nBe kind."},
        {"role": "user", "content": [IMAGE_PART, text("What is it?")]},
    ],
    "empty system": [{"role": "system", "content": ""}, {"role": "user", "content": "Hello"}],
    "system begins with a space": [
        {"role": "system", "content": "  Be short."},
        {"role": "user", "content": "Hello"},
    ],
    "two turns": [
        {"role": "user", "content": [IMAGE_PART, text("What is it?")]},
        {"role": "assistant", "content": "A circle."},
        {"role": "user", "content": " And its colour? "},
    ],
    "an image in the second turn": [
        {"role": "user", "content": [IMAGE_PART, text("What?")]},
        {"role": "assistant", "content": [text("A "), text("circle.")]},
        {"role": "user", "content": [IMAGE_PART, text("And this?")]},
    ],
    "line breaks and other letters": [
        {"role": "user", "content": [IMAGE_PART, text("\n\nÄpfel \t 图 \x00 ?\n")]}
    ],
    "braces": [{"role": "user", "content": "{{ BOS }} {% raw %} \\n \"'"}],
    "typed specials": [
        {"role": "system", "content": "</s> <unk>"},
        {"role": "user", "content": [IMAGE_PART, text("<s>What</s> is <unk><image>?")]},
    ],
}


@pytest.mark.parametrize("legacy", [True, False], ids=["space everywhere", "space first"])
@pytest.mark.parametrize("name", CHATS)
def test_the_template_gives_the_originals_ids(name: str, legacy: bool) -> None:
    """SentencePiece puts a space before a text, and behind a special token or not."""
    tokenizer = LlamaTokenizer.from_pretrained(
        SOURCES["llava"], legacy=legacy, add_prefix_space=True
    )
    template = chat_template(VICUNA_V1, tokenizer, "<unk>")
    ours = TemplateChat(tokenizer, template, "<unk>").encode(CHATS[name])
    assert ours == ConversationChat(tokenizer, VICUNA_V1).encode(CHATS[name])


@pytest.mark.parametrize("name", CHATS)
def test_prompts_survive_conversion(name: str, converted: dict[str, Path]) -> None:
    before, after = loaded(SOURCES["llava"]), loaded(converted["llava"])
    assert before.chat is not None
    assert isinstance(after.chat, TemplateChat)
    assert after.chat.encode(CHATS[name]) == before.chat.encode(CHATS[name])


@pytest.mark.parametrize(
    "chat",
    [
        [{"role": "user", "content": "a"}, {"role": "system", "content": "late"}],
        [{"role": "assistant", "content": [IMAGE_PART]}, {"role": "user", "content": "a"}],
    ],
    ids=["system message late", "image in an answer"],
)
def test_what_the_original_refuses_the_template_refuses(
    chat: list[dict[str, Any]], converted: dict[str, Path]
) -> None:
    for folder in (SOURCES["llava"], converted["llava"]):
        model = loaded(folder)
        assert model.chat is not None
        with pytest.raises(PromptError, match=r"system message must be|cannot hold an image"):
            model.chat.encode(chat)


def test_pictures_come_out_the_same(converted: dict[str, Path]) -> None:
    before, after = loaded(SOURCES["llava"]), loaded(converted["llava"])
    assert before.process_images is not None
    assert after.process_images is not None
    for name in ("img0", "img1", "img2"):
        pixels = [
            p([picture(name)])["pixel_values"]
            for p in (before.process_images, after.process_images)
        ]
        assert torch.equal(*map(torch.as_tensor, pixels))


def test_transformers_itself_answers_alike(converted: dict[str, Path]) -> None:
    """Its own processor and class, with our folder: nothing of ours is needed to use it."""
    folder = converted["llava"]
    chat = [{"role": "user", "content": [{"type": "image"}, text("What is it?")]}]
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    rendered = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(
        text=rendered, images=picture(), return_tensors="pt", add_special_tokens=False
    )
    reference = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    theirs = reference.generate(**inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    model = loaded(folder)
    shown = [
        {"role": "user", "content": [{"type": "image", "image": picture()}, chat[0]["content"][1]]}
    ]
    prompt = model.prompt(shown)
    assert isinstance(prompt, Prompt)
    settings = SamplingParams(max_tokens=12, min_tokens=12, temperature=0)
    [ours] = dyvte.generate(model, prompt, settings, ExitOptions("off"))
    assert ours.token_ids == theirs[0, inputs["input_ids"].shape[1] :].tolist()


def test_padding_is_no_image(converted: dict[str, Path]) -> None:
    """LLaVA pads with the unknown token, which stands for an image here."""
    tokenizer = loaded(converted["llava"]).tokenizer
    assert tokenizer is not None
    assert tokenizer.pad_token == "</s>"


def test_a_run_that_died_is_begun_anew(tmp_path: Path) -> None:
    conversion = read_conversion(SOURCES["dyvte"])
    target = tmp_path / "model"

    def die(done: int) -> None:
        if done > conversion.bytes // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.write(target, die)
    assert not target.exists()
    conversion.write(target, lambda done: None)
    assert loaded(target).gates is not None
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    conversion = read_conversion(SOURCES["dyvte"])
    full, mine = tmp_path / "full", tmp_path / "new.partial"
    for folder in (full, mine):
        folder.mkdir()
        (folder / "letter.txt").write_text("dear")
    with pytest.raises(ModelError, match="not an empty folder"):
        conversion.write(full, lambda done: None)
    with pytest.raises(ModelError, match="in the way"):
        conversion.write(tmp_path / "new", lambda done: None)
    assert (mine / "letter.txt").read_text() == "dear"


def test_what_needs_no_conversion_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="already"):
        read_conversion(tiny_folder)
    (tmp_path / "config.json").write_text('{"model_type": "mystery"}')
    with pytest.raises(ModelError, match="mystery"):
        read_conversion(tmp_path)


def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(SOURCES["llava"], folder)
    config = folder / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 4', '"num_hidden_layers": 5')
    )
    with pytest.raises(ModelError, match=r"layers\.4"):
        read_conversion(folder)


def test_gates_beside_the_original_are_laid_over_those_inside(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(SOURCES["dyvte"], source)
    (source / "gates").mkdir()
    gates = {"layers.3.w1.weight": torch.ones(8, 64), "layers.3.w2.weight": torch.ones(2, 8)}
    save_file(gates, source / "gates" / "gates.safetensors")
    read_conversion(source).write(tmp_path / "model", lambda done: None)
    before, after = loaded(source).gates, loaded(tmp_path / "model").gates
    assert before is not None
    assert after is not None
    assert after.layers == before.layers == set(range(6))
    assert all(torch.equal(after.w2[layer], before.w2[layer]) for layer in after.layers)
    assert after.inner(3) == 8


INTERNVL = Path(__file__).parents[2] / "golden" / "internvl-original"


@pytest.mark.parametrize("variant", ["qwen2-ln", "internlm2-ln"])
def test_internvl_is_converted_too(variant: str, tmp_path: Path) -> None:
    read_conversion(INTERNVL / variant / "checkpoint").write(tmp_path / "model", lambda done: None)
    before, after = loaded(INTERNVL / variant / "checkpoint"), loaded(tmp_path / "model")
    assert after.adapter.family == "internvl"
    origins = [origin_of(model.adapter, "it") for model in (before, after)]
    assert origins[0] is not None
    assert origins[1] is not None
    assert origins[0].same_model(origins[1])  # so that gates of one are the other's
    assert before.process_images is not None
    assert after.process_images is not None
    shown = [Image.open(INTERNVL / "img0.png"), Image.open(INTERNVL / "img1.png")]
    images, again = before.process_images(shown), after.process_images(shown)
    assert torch.equal(torch.as_tensor(again["pixel_values"]), images["pixel_values"])
    ids = [5, 9, -200, 13, 7, -200, 21, 8]
    results = [
        dyvte.generate(model, Prompt(ids, each), GREEDY)[0]
        for model, each in ((before, images), (after, again))
    ]
    assert results[0].token_ids == results[1].token_ids
    assert results[0].logits is not None
    assert results[1].logits is not None
    assert torch.equal(results[0].logits, results[1].logits)


def test_the_first_pixel_shuffle_has_no_native_word() -> None:
    with pytest.raises(ModelError, match="ps_version 'v1'"):
        read_conversion(INTERNVL / "llama-rms-v1" / "checkpoint")


@pytest.mark.parametrize("form", INTERNVL_FORMATS.values(), ids=lambda form: form.name)
@pytest.mark.parametrize("name", [name for name in CHATS if name != "typed specials"])
def test_internvls_formats_are_templates(name: str, form: Conversation) -> None:
    tokenizer = tiny.tokenizer()
    specials = ["<img>", "</img>", "<IMG_CONTEXT>", *form.stops]
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    template = chat_template(form, tokenizer, "<IMG_CONTEXT>")
    ours = TemplateChat(tokenizer, template, "<IMG_CONTEXT>", form.frame).encode(CHATS[name])
    assert ours == ConversationChat(tokenizer, form).encode(CHATS[name])


@pytest.mark.parametrize("name", ["vila-original", "eagle-original"])
def test_what_transformers_has_no_class_for_loads_as_it_is(name: str) -> None:
    with pytest.raises(ModelError, match="loads as it is"):
        read_conversion(INTERNVL.parent / name / "checkpoint")


def test_internvl_chat_1_is_a_llava_around_another_tower(tmp_path: Path) -> None:
    source = INTERNVL.parent / "internvl-llava-original"
    read_conversion(source / "checkpoint").write(tmp_path / "model", lambda done: None)
    before, after = loaded(source / "checkpoint"), loaded(tmp_path / "model")
    results = []
    for model in (before, after):
        assert model.process_images is not None
        images = model.process_images([Image.open(source / "img1.png")])
        results += dyvte.generate(model, Prompt([1, 9, -200, 21, 8], images), GREEDY)
    assert results[0].token_ids == results[1].token_ids
    assert results[0].logits is not None
    assert results[1].logits is not None
    assert torch.equal(results[0].logits, results[1].logits)
