"""Weights rounded by torchao and bitsandbytes, at load and in a checkpoint; and what is refused.

What needs the libraries is skipped without them; ``make quant-test`` installs them.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration, TorchAoConfig

import dyvte
from dyvte.errors import ModelError, OptionError
from dyvte.models import linear
from dyvte.models.decoder import DecoderAdapter
from dyvte.models.parts import origin_of
from dyvte.models.quantized import LIBRARIES, WEIGHTS
from server.settings import Settings
from tests import tiny


def missing(*names: str) -> bool:
    return any(importlib.util.find_spec(name) is None for name in names)


def needs(*names: str) -> pytest.MarkDecorator:
    reason = f"needs {' and '.join(names)} (make quant-test)"
    return pytest.mark.skipif(missing(*names), reason=reason)


FORMS = [pytest.param(form, marks=needs(name)) for form, name in LIBRARIES.items()]
MODULES = sorted(set(LIBRARIES.values()))
BYTES = {"torchao-int8": 0.35, "bnb-int8": 0.35, "bnb-nf4": 0.2}
CLOSE = {"torchao-int8": 0.05, "bnb-int8": 0.05, "bnb-nf4": 0.5}
GREEDY = dyvte.SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)


def load(folder: Path, weights: str = "auto") -> DecoderAdapter:
    adapter = dyvte.load(folder, device="cpu", dtype="float32", weights=weights).adapter
    assert isinstance(adapter, DecoderAdapter)
    return adapter


def layers(adapter: DecoderAdapter) -> Any:
    return adapter.model.model.language_model.layers


def linears(module: nn.Module) -> set[type[nn.Module]]:
    return {type(each) for each in module.modules() if hasattr(each, "in_features")}


def folder_that_says(tmp_path: Path, folder: Path, said: object) -> Path:
    """A model's folder with another ``quantization_config``."""
    copy = tmp_path / "said"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    return copy


def test_the_server_offers_the_forms_that_the_library_has() -> None:
    assert get_args(Settings.model_fields["weights"].annotation) == WEIGHTS
    assert WEIGHTS[: len(linear.WEIGHTS)] == linear.WEIGHTS


@pytest.mark.parametrize(("form", "name"), LIBRARIES.items())
def test_a_form_without_its_library_is_refused_with_the_remedy(
    form: str, name: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionError, match=rf"weights: {name} is not installed.*'dyvte\[quant\]'"):
        dyvte.load(tiny_folder, weights=form)


def test_an_unknown_form_is_refused_with_all_that_there_are(tiny_folder: Path) -> None:
    with pytest.raises(OptionError, match="'int3' is none of auto, plain, int8, torchao-int8, bnb"):
        dyvte.load(tiny_folder, weights="int3")


@pytest.mark.parametrize("form", ["int8", "torchao-int8", "bnb-nf4"])
def test_weights_that_are_rounded_already_are_not_rounded_again(
    form: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = folder_that_says(tmp_path, tiny_folder, {"quant_method": "torchao"})
    with pytest.raises(OptionError, match=f"rounded by torchao already, and {form} would"):
        dyvte.load(folder, weights=form)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"quant_method": "squeeze"}, "rounded by squeeze, which transformers does not know"),
        ({"bits": 4}, "rounded by a method without a name, which transformers does not know"),
        ("int4", "rounded by a method without a name, which transformers does not know"),
    ],
)
def test_an_unknown_way_of_rounding_is_refused_before_a_weight_is_read(
    said: object, told: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = folder_that_says(tmp_path, tiny_folder, said)
    (folder / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ModelError, match=f"{told}; take the checkpoint as it was"):
        dyvte.load(folder)


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in MODULES])
def test_a_library_is_loaded_without_a_word(name: str) -> None:
    """In a process of its own, where it is loaded for the first time."""
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO); "
        "from dyvte import loggers; loggers.quiet(); "
        "from dyvte.models.quantized import library; library(sys.argv[1], 'a test needs it'); "
        "logging.getLogger('torchao').error('heard')"
    )
    command = [sys.executable, "-c", code, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert done.stderr == "ERROR:torchao:heard\n"


def test_a_rounded_checkpoint_without_its_library_is_refused_with_the_remedy(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    folder = folder_that_says(tmp_path, tiny_folder, said)
    found = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "bitsandbytes" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(ModelError, match=r"bitsandbytes is not installed: pip install 'dyvte\[q"):
        dyvte.load(folder)


def test_rounded_weights_in_an_original_layout_are_refused(tmp_path: Path) -> None:
    said: dict[str, Any] = {"model_type": "llava_llama", "mm_vision_tower": "clip"}
    said["quantization_config"] = {"quant_method": "awq"}
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"rounded by awq, and LLaVA-1\.5's original layout is r"):
        dyvte.load(tmp_path)


def test_a_rounded_checkpoint_says_so_where_only_its_config_is_read(
    tiny_folder: Path, tmp_path: Path
) -> None:
    from dyvte.model import build

    folder = folder_that_says(tmp_path, tiny_folder, {"quant_method": "torchao"})
    assert build(folder).notes == ("its weights were rounded by torchao before they were stored",)
    assert build(tiny_folder).notes == ()


def test_a_layer_that_holds_a_module_of_somebody_else_runs_as_it_is(tiny_folder: Path) -> None:
    """Kernels of ours that take a layer whole looked for their own weights in it, and raised."""

    class Another(nn.Linear):
        pass

    model = dyvte.load(tiny_folder, device="cpu", dtype="float32", weights="plain")
    prompt = tiny.prompt(1, images=1)
    (before,) = dyvte.generate(model, prompt, GREEDY)
    assert isinstance(model.adapter, DecoderAdapter)
    layers(model.adapter)[1].mlp.down_proj.__class__ = Another
    linear.prepare(model.adapter)
    assert Another in linears(layers(model.adapter))
    (after,) = dyvte.generate(model, prompt, GREEDY)
    assert after.token_ids == before.token_ids


@pytest.mark.parametrize("form", FORMS)
def test_only_the_linear_layers_of_the_decoder_are_rounded(form: str, tiny_folder: Path) -> None:
    plain, rounded = load(tiny_folder), load(tiny_folder, form)
    assert not linears(layers(plain)) & linears(layers(rounded))
    assert len(linears(layers(rounded))) == 1
    inside = {f"model.language_model.layers.{name}" for name, _ in layers(plain).named_parameters()}
    after = dict(rounded.model.named_parameters())
    for name, parameter in plain.model.named_parameters():
        if name not in inside or "norm" in name:
            assert torch.equal(after[name], parameter), name
    assert plain.gates is not None
    assert rounded.gates is not None
    for layer in plain.gates.layers:
        status = torch.randn(2, 2 * tiny.HIDDEN)
        assert torch.equal(rounded.gates.logits(layer, status), plain.gates.logits(layer, status))


@pytest.mark.parametrize("form", FORMS)
def test_rounded_layers_are_smaller_and_tell_no_origin(form: str, tiny_folder: Path) -> None:
    plain, rounded = load(tiny_folder), load(tiny_folder, form)
    before, after = (
        sum(p.numel() * p.element_size() for p in layers(each).parameters())
        for each in (plain, rounded)
    )
    assert after < BYTES[form] * before
    assert plain.parameter_bytes() - rounded.parameter_bytes() == before - after
    assert origin_of(rounded, "tiny") is None


@pytest.mark.parametrize("form", FORMS)
def test_rounded_products_are_near_the_plain_ones(form: str, tiny_folder: Path) -> None:
    hidden = torch.randn(7, tiny.HIDDEN)
    with torch.inference_mode():
        for name in ("q_proj", "v_proj", "o_proj"):
            plain, rounded = (
                getattr(layers(load(tiny_folder, each))[0].self_attn, name)(hidden)
                for each in ("plain", form)
            )
            assert 0 < (plain - rounded).norm() < CLOSE[form] * plain.norm()


@needs("bitsandbytes")
def test_a_large_number_in_one_row_changes_no_other_row(tiny_folder: Path) -> None:
    """The library's own threshold takes the columns that are large in any row out of all rows."""
    project = layers(load(tiny_folder, "bnb-int8"))[0].self_attn.q_proj
    rows = torch.randn(3, tiny.HIDDEN)
    large = rows.clone()
    large[0, 5] = 50.0
    with torch.inference_mode():
        assert torch.equal(project(rows)[1:], project(large)[1:])
        project.state.threshold = 6.0
        assert not torch.equal(project(rows)[1:], project(large)[1:])


@needs("bitsandbytes", "accelerate")
@pytest.mark.filterwarnings("ignore")  # the libraries' own, of what they do at import
def test_a_stored_threshold_counts_for_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rounded"
    stored(folder, tiny_folder, BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0))
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert said["llm_int8_threshold"] == 6.0
    found = layers(load(folder))[1].mlp.down_proj
    assert type(found).__name__ == "Linear8bitLt"
    assert found.state.threshold == 0.0


def same_in_any_company(model: dyvte.Model) -> None:
    prompts = [tiny.prompt(seed, images=seed % 3, after=2 + 7 * seed) for seed in range(6)]
    alone = [dyvte.generate(model, each, GREEDY, {"policy": "gate"})[0] for each in prompts]

    @settings(deadline=None, max_examples=8)
    @given(chosen=st.lists(st.integers(0, len(prompts) - 1), min_size=2, max_size=6))
    def together(chosen: list[int]) -> None:
        batch = dyvte.generate(model, [prompts[i] for i in chosen], GREEDY, {"policy": "gate"})
        for index, result in zip(chosen, batch, strict=True):
            assert result.token_ids == alone[index].token_ids
            assert result.exit_layer == alone[index].exit_layer

    together()


@pytest.mark.parametrize("form", FORMS)
def test_rounded_models_answer_the_same_alone_and_in_any_batch(
    form: str, tiny_folder: Path
) -> None:
    same_in_any_company(dyvte.load(tiny_folder, device="cpu", dtype="float32", weights=form))


def stored(folder: Path, source: Path, how: Any) -> Any:
    """The model as ``transformers`` rounds and stores it, with the small files of ``source``."""
    shutil.copytree(
        source, folder, ignore=shutil.ignore_patterns("model.safetensors", "config.json")
    )
    model = LlavaForConditionalGeneration.from_pretrained(
        source, quantization_config=how, dtype=torch.float32, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    return model.eval()


def ways() -> Sequence[Any]:
    """How a checkpoint may have been rounded, by the libraries that are here."""

    def torchao() -> Any:
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())

    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    return [
        pytest.param(torchao, marks=needs("torchao", "accelerate")),
        pytest.param(
            lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0),
            marks=needs("bitsandbytes", "accelerate"),
        ),
        pytest.param(
            lambda: BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=torch.float32),
            marks=needs("bitsandbytes", "accelerate"),
        ),
    ]


@pytest.mark.filterwarnings("ignore")  # the libraries' own, of what they do at import
@pytest.mark.parametrize("how", ways(), ids=["torchao", "bnb-int8", "bnb-nf4"])
def test_a_rounded_checkpoint_loads_and_answers_as_in_transformers(
    how: Any, tiny_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """bitsandbytes' int8 rounds rows as well: the last bit of a float32 sum may decide a level."""
    close = 0.15 if "bnb-int8" in request.node.name else 1e-4
    folder = tmp_path / "rounded"
    theirs = stored(folder, tiny_folder, how())
    model = dyvte.load(folder, device="cpu", dtype="float32")
    assert model.weights in ("torchao", "bitsandbytes")
    assert model.notes == (f"its weights were rounded by {model.weights} before they were stored",)
    assert model.gate_card is not None  # whose model cannot be told from rounded weights
    prompt = tiny.prompt(3, images=0, after=9)
    wanted = theirs.generate(
        torch.tensor([prompt.token_ids]),
        max_new_tokens=1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    ).logits[0]
    (ours,) = dyvte.generate(
        model, prompt, dyvte.SamplingParams(max_tokens=1, temperature=0, return_logits=True)
    )
    assert ours.logits is not None
    torch.testing.assert_close(ours.logits, wanted, atol=close, rtol=1e-4)
    assert ours.token_ids == wanted.argmax(-1).tolist()
    same_in_any_company(model)
