"""The gate networks and their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import dyvte
from dyvte import ExitOptions, ModelError
from dyvte.exits.files import GateCard, bank_from, gate_key, read_gates, write_gates
from dyvte.exits.gate import GateBank
from tests import tiny

CARD = GateCard(tiny.HIDDEN, tiny.LAYERS, (0, 1, 2, 3), trained_on="nothing")


def assert_same(one: GateBank | None, other: GateBank) -> None:
    assert one is not None
    assert one.layers == other.layers
    for layer in one.layers:
        assert torch.equal(one.w1[layer], other.w1[layer])
        assert torch.equal(one.w2[layer], other.w2[layer])


def test_a_gate_is_the_papers_two_layers() -> None:
    bank = tiny.gates()
    status = torch.randn(3, 2 * tiny.HIDDEN)
    first, second = nn.Linear(2 * tiny.HIDDEN, 8, bias=False), nn.Linear(8, 2, bias=False)
    first.weight, second.weight = nn.Parameter(bank.w1[2]), nn.Parameter(bank.w2[2])
    expected = second(nn.functional.gelu(first(status), approximate="none"))
    torch.testing.assert_close(bank.logits(2, status), expected.detach())


def test_sixteen_bit_gates_compute_in_float32() -> None:
    bank = tiny.gates()
    half = GateBank(
        {k: w.bfloat16() for k, w in bank.w1.items()}, {k: w.bfloat16() for k, w in bank.w2.items()}
    )
    status = torch.randn(2, 2 * tiny.HIDDEN).bfloat16()
    up = GateBank(
        {k: w.float() for k, w in half.w1.items()}, {k: w.float() for k, w in half.w2.items()}
    )
    assert half.logits(0, status).dtype is torch.float32
    assert torch.equal(half.logits(0, status), up.logits(0, status.float()))


@pytest.mark.parametrize("inner", [64, 256, 700, 2048])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_gates_of_any_width_are_those_of_the_same_numbers_in_float32(
    dtype: torch.dtype, inner: int
) -> None:
    torch.manual_seed(0)
    w1, w2 = torch.randn(inner, 48).div(7).to(dtype), torch.randn(2, inner).to(dtype)
    status = torch.randn(3, 48)
    found = GateBank({0: w1}, {0: w2}).logits(0, status)
    expected = GateBank({0: w1.float()}, {0: w2.float()}).logits(0, status)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_folder_gives_back_what_was_written(tmp_path: Path) -> None:
    bank = tiny.gates(layers=(1, 3))
    write_gates(tmp_path / "new" / "gates", bank, CARD)
    again, card = read_gates(tmp_path / "new" / "gates")
    assert_same(again, bank)
    assert card == CARD


def test_an_offset_is_added_and_travels_with_its_gate(tmp_path: Path) -> None:
    plain = tiny.gates()
    offset = {1: torch.tensor([-0.5, 0.5]), 3: torch.tensor([0.0, 2.0])}
    bank = GateBank(plain.w1, plain.w2, offset)
    status = torch.randn(3, 2 * tiny.HIDDEN)
    torch.testing.assert_close(bank.logits(1, status), plain.logits(1, status) + offset[1])
    assert torch.equal(bank.logits(2, status), plain.logits(2, status))
    write_gates(tmp_path, bank, CARD)
    again, _ = read_gates(tmp_path)
    assert again is not None
    assert_same(again, bank)
    assert all(torch.equal(again.bias[layer], offset[layer]) for layer in (1, 3))
    assert again.to(torch.device("cpu")).bias.keys() == {1, 3}
    assert again.only({0, 1}).bias.keys() == {1}
    fresh = bank_from({"layers.1.w2.weight": plain.w2[1]}, again)
    assert fresh.bias.keys() == {3}


def test_an_offset_needs_a_gate() -> None:
    plain = tiny.gates(layers=(0,))
    for offset in ({1: torch.zeros(2)}, {0: torch.zeros(3)}):
        with pytest.raises(ModelError, match=r"bias of shape"):
            GateBank(plain.w1, plain.w2, offset)


def test_a_gate_says_what_asking_it_costs() -> None:
    bank = tiny.gates(inner=8)
    assert bank.flops(2) == 2 * (2 * tiny.HIDDEN * 8 + 8 * 2)
    assert bank.parameters == tiny.LAYERS * (2 * tiny.HIDDEN * 8 + 8 * 2)


def test_the_published_names_are_read(tmp_path: Path) -> None:
    bank = tiny.gates()
    tensors = {
        f"model.visual_gates_router.{layer}.{name}.weight": w
        for name, ws in (("w1", bank.w1), ("w2", bank.w2))
        for layer, w in ws.items()
    }
    save_file(
        tensors | {"model.layers.0.mlp.up_proj.weight": torch.ones(1)}, tmp_path / "g.safetensors"
    )
    again, card = read_gates(tmp_path / "g.safetensors")
    assert_same(again, bank)
    assert card is None


def test_a_file_of_some_matrices_is_laid_over_the_gates_there_are(tmp_path: Path) -> None:
    base, fresh = tiny.gates(1), tiny.gates(2)
    save_file(
        {f"layers.{layer}.w2.weight": fresh.w2[layer] for layer in (0, 2)},
        tmp_path / "some.safetensors",
    )
    merged, _ = read_gates(tmp_path / "some.safetensors", base)
    assert_same(merged, GateBank(base.w1, {**base.w2, 0: fresh.w2[0], 2: fresh.w2[2]}))
    with pytest.raises(ModelError, match="both w1 and w2"):
        read_gates(tmp_path / "some.safetensors")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("model.visual_gates_router.11.w1.weight", (11, "w1")),
        ("layers.3.w2.weight", (3, "w2")),
        ("model.layers.3.w2.weight", None),
        ("layers.3.bias", (3, "bias")),
        ("layers.3.w3.weight", None),
        ("layers.x.w1.weight", None),
    ],
)
def test_gate_names_are_told_from_others(name: str, key: tuple[int, str] | None) -> None:
    assert gate_key(name) == key


def test_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_gates(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no gate weights"):
        read_gates(tmp_path)
    (tmp_path / "gates.safetensors").write_bytes(b"not this")
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_gates(tmp_path)
    write_gates(tmp_path, tiny.gates(), CARD)
    for text in ("{", "[]", '{"format": "other"}', '{"format": "dyvte-gates", "x": 1}'):
        (tmp_path / "gates.json").write_text(text)
        with pytest.raises(ModelError, match=r"gates\.json"):
            read_gates(tmp_path)


@pytest.mark.parametrize(
    ("w1", "w2"),
    [((8, 7), (2, 8)), ((8, 64), (2, 9)), ((8, 64), (3, 8)), ((8,), (2, 8))],
)
def test_shapes_that_are_no_gate_are_refused(w1: tuple[int, ...], w2: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="layer 0"):
        GateBank({0: torch.zeros(w1)}, {0: torch.zeros(w2)})


def test_gates_of_different_widths_are_no_bank() -> None:
    """Only the first width was compared with the model; the other gate raised at its first use."""
    w1 = {0: torch.zeros(8, 64), 1: torch.zeros(8, 32)}
    with pytest.raises(ModelError, match="layer 1"):
        GateBank(w1, {0: torch.zeros(2, 8), 1: torch.zeros(2, 8)}).check(32, 4)


def test_gates_must_fit_their_model() -> None:
    bank = bank_from(
        {"layers.5.w1.weight": torch.zeros(8, 64), "layers.5.w2.weight": torch.zeros(2, 8)}
    )
    bank.check(32, 6)
    with pytest.raises(ModelError, match="hidden size 32, the model has 16"):
        bank.check(16, 6)
    with pytest.raises(ModelError, match=r"layer 5 .* 0\.\.4"):
        bank.check(32, 5)


def test_gates_given_by_hand_replace_the_folders_own(tmp_path: Path, tiny_folder: Path) -> None:
    other = tiny.gates(9, layers=(2,))
    write_gates(tmp_path, other, GateCard(tiny.HIDDEN, tiny.LAYERS, (2,)))
    model = dyvte.load(tiny_folder, gates=tmp_path, device="cpu", dtype="float32")
    assert model.gates is not None
    assert_same(model.gates, other)
    assert model.gate_card is not None
    exits = ExitOptions(aggressiveness=1.0)
    assert tiny.alone(model, tiny.prompt(0), exits=exits).exit_layer == 2


def test_a_card_alone_is_enough_where_it_says_that_there_are_no_gates(tmp_path: Path) -> None:
    alone = GateCard(tiny.HIDDEN, tiny.LAYERS, (), vtw={"k": 2, "eta": 1.0})
    write_gates(tmp_path, None, alone)
    assert not (tmp_path / "gates.safetensors").exists()
    assert read_gates(tmp_path) == (None, alone)
    base = tiny.gates()
    assert read_gates(tmp_path, base) == (base, alone)
    write_gates(tmp_path, None, CARD)  # its gates were lost
    with pytest.raises(ModelError, match="no gate weights"):
        read_gates(tmp_path)


def test_a_card_of_another_model_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    write_gates(tmp_path, None, GateCard(tiny.HIDDEN, tiny.LAYERS + 1, ()))
    with pytest.raises(ModelError, match="5 layers"):
        dyvte.load(tiny_folder, gates=tmp_path, device="cpu", dtype="float32")


def test_a_card_is_written_for_people_as_well(tmp_path: Path) -> None:
    point = {"setting": 0.5, "changed": 3, "exits": list(range(60))}
    curve = {"single": {"samples": 600, "points": [point, point]}}
    card = GateCard(tiny.HIDDEN, tiny.LAYERS, (), calibration={"curves": {"gate": curve}})
    write_gates(tmp_path, None, card)
    lines = (tmp_path / "gates.json").read_text().splitlines()
    assert sum('"setting"' in line for line in lines) == 2
    assert len(lines) < 40
    assert read_gates(tmp_path)[1] == card


def test_a_card_is_plain_json(tmp_path: Path) -> None:
    write_gates(tmp_path, tiny.gates(), CARD)
    card = json.loads((tmp_path / "gates.json").read_text())
    assert card["format"] == "dyvte-gates"
    assert card["layers"] == [0, 1, 2, 3]
