"""Fitting gates: they learn what can be learnt, and what they say of it is true."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dyvte.errors import OptionError
from dyvte.training.fit import Fit, FitConfig, fit
from dyvte.training.offset import fit_offset
from dyvte.training.split import split
from dyvte.training.verdict import area, as_table, calibration_error, judge

CONFIG = FitConfig(inner=16, lr=1e-2, epochs=30, seed=3)


def made(count: int = 1200) -> tuple[Tensor, Tensor]:
    """Statuses ``[N, 3, 8]``. Layer 0: exit is rare and noisy; 1: a feature's sign; 2: always.

    Features differ in size by 10⁴, as a decoder's do.
    """
    draw = torch.Generator().manual_seed(0)
    status = torch.randn(count, 3, 8, generator=draw)
    rare = status[:, 0, 0] + torch.randn(count, generator=draw) > 1.8
    label = torch.stack([rare, status[:, 1, 0] > 0, torch.ones(count) > 0], dim=1)
    return status * torch.logspace(-2, 2, 8), label


def fitted(config: FitConfig = CONFIG, count: int = 1200) -> Fit:
    status, label = made(count)
    return fit(lambda layer: status[:, layer], label, torch.arange(count), range(3), config)


def test_gates_decide_better_than_the_base_rate() -> None:
    rare, plain, always = fitted().layers
    assert plain.accuracy > 0.93
    assert plain.auc is not None
    assert plain.auc > 0.98
    assert rare.auc is not None
    assert rare.auc > 0.8
    assert rare.loss < rare.base_loss
    assert always.exit_accuracy == 1.0
    assert (always.keep_accuracy, always.auc) == (None, None)


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_the_chance_of_an_exit_is_a_frequency_whatever_the_weights(balance: float) -> None:
    config = FitConfig(inner=16, lr=1e-2, epochs=30, seed=3, balance=balance)
    assert all(layer.ece < 0.09 for layer in fitted(config).layers)


def test_the_same_seed_gives_the_same_gates() -> None:
    short = FitConfig(inner=8, epochs=2, seed=3)
    one, two = fitted(short, 200), fitted(short, 200)
    for first, second in ((one.gates.w1, two.gates.w1), (one.gates.bias, two.gates.bias)):
        assert all(torch.equal(first[layer], second[layer]) for layer in first)


def test_a_layers_gate_does_not_depend_on_which_others_are_fitted() -> None:
    status, label = made(200)
    short = FitConfig(inner=8, epochs=2)
    alone = fit(lambda layer: status[:, layer], label[:, 1:2], torch.arange(200), [1], short)
    assert torch.equal(alone.gates.w1[1], fitted(short, 200).gates.w1[1])


def test_a_layer_where_nothing_may_exit_gets_no_gate() -> None:
    status, label = made(200)
    label[:, 1] = False
    found = fit(
        lambda layer: status[:, layer - 4],
        label,
        torch.arange(200),
        [4, 5, 6],
        FitConfig(inner=8, epochs=1),
    )
    assert found.without == (5,)
    assert found.gates.layers == {4, 6}
    with pytest.raises(OptionError, match="no gate is made"):
        fit(lambda layer: status[:, 0], label[:, 1:2], torch.arange(200), [0])


def test_a_group_is_never_on_two_sides() -> None:
    groups = torch.arange(90) // 3
    parts = split(groups, 0.3, seed=1)
    sides = [set(groups[part].tolist()) for part in (parts.train, parts.choose, parts.judge)]
    assert sum(map(len, sides)) == 30
    assert len(set.union(*sides)) == 30
    assert [len(side) for side in sides] == [22, 4, 4]


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"held_out": 1.0}, "held_out"), ({"inner": 0}, "inner"), ({"lr": 0}, "lr")],
)
def test_settings_out_of_range_name_themselves(settings: dict[str, float], field: str) -> None:
    with pytest.raises(OptionError) as caught:
        FitConfig(**settings)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(OptionError, match="at least three"):
        split(torch.tensor([0, 0, 1]), 0.5, 0)


def test_the_area_under_the_curve_counts_ties_half() -> None:
    score = torch.tensor([0.0, 1.0, 1.0, 2.0])
    label = torch.tensor([False, False, True, True])
    assert area(score, label) == 3.5 / 4
    assert area(-score, label) == 0.5 / 4
    assert area(score, torch.ones(4, dtype=torch.bool)) is None


def test_calibration_error_is_the_mean_gap() -> None:
    chance = torch.tensor([0.25, 0.25, 0.75, 0.75])
    label = torch.tensor([False, False, True, True])
    assert calibration_error(chance, label) == pytest.approx(0.25)


def test_an_offset_undoes_overconfidence() -> None:
    draw = torch.Generator().manual_seed(1)
    true = torch.randn(4000, generator=draw)
    label = torch.rand(4000, generator=draw) < (true - 1).sigmoid()
    slope, offset = fit_offset(5 * true, label)
    assert slope == pytest.approx(0.2, abs=0.03)
    assert offset == pytest.approx(-1.0, abs=0.15)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_an_offset_is_finite_where_a_gate_is_perfect_or_worthless(share: float) -> None:
    label = torch.arange(50) < 50 * share
    for margin in (label.float() * 8 - 4, 4 - label.float() * 8, torch.zeros(50)):
        slope, offset = fit_offset(margin, label)
        assert slope >= 0
        assert abs(offset) < 20


def test_the_table_has_a_line_a_layer() -> None:
    table = as_table([judge(3, torch.tensor([1.0, -1.0]), torch.tensor([True, True]))])
    assert table.splitlines()[2].startswith("| 3 | 100.0% | 50.0% | 50.0% | – | – |")
