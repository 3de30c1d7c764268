"""Sampling against a brute-force reference, and a seed that does not see its batch mates."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyvte.params import SamplingParams
from dyvte.sampling import generator_for, log_probs, sample

VOCAB = 12
logits = st.lists(
    st.floats(-8, 8, width=32).map(lambda x: round(x, 3)),
    min_size=VOCAB,
    max_size=VOCAB,
    unique=True,
)
filters = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([0, 1, 3, 50]),
        "top_p": st.sampled_from([0.2, 0.7, 0.95, 1.0]),
        "min_p": st.sampled_from([0.0, 0.05, 0.5]),
    }
)


def one(row: torch.Tensor, params: SamplingParams, choice: int = 0) -> int:
    return int(sample(row[None], [params], [generator_for(params, choice)], [()])[0])


def survivors(
    row: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> dict[int, float]:
    """The definition, token by token: what may be drawn, and how likely."""
    ranked = sorted(range(len(row)), key=lambda i: -row[i])[: top_k or None]
    weights = [math.exp((row[i] - row[ranked[0]]) / temperature) for i in ranked]
    probs = [w / sum(weights) for w in weights]
    kept = {}
    for rank, token in enumerate(ranked):
        if sum(probs[:rank]) < top_p and probs[rank] >= min_p * probs[0]:
            kept[token] = probs[rank]
    return {token: p / sum(kept.values()) for token, p in kept.items()}


@given(row=logits, settings=filters, seed=st.integers(0, 2**40))
def test_only_tokens_that_pass_the_filters_are_drawn(
    row: list[float], settings: dict[str, Any], seed: int
) -> None:
    params = SamplingParams(**settings, seed=seed)
    slack = settings | {"top_p": min(1.0, settings["top_p"] + 1e-5)}
    assert one(torch.tensor(row), params) in survivors(row, **slack)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 0.7, "top_k": 4, "top_p": 0.9, "min_p": 0.05},
        {"temperature": 1.5, "top_k": 0, "top_p": 0.6, "min_p": 0.0},
    ],
    ids=["plain", "all filters", "hot nucleus"],
)
def test_frequencies_are_the_probabilities(settings: dict[str, Any]) -> None:
    row = [2.0, -1.0, 0.5, 1.5, -3.0, 0.0, 1.0]
    draws = 4000
    params = SamplingParams(**settings, seed=5)
    generator = generator_for(params)
    rows = torch.tensor(row).expand(draws, -1)
    drawn = Counter(sample(rows, [params] * draws, [generator] * draws, [()] * draws).tolist())
    for token, probability in survivors(row, **settings).items():
        spread = math.sqrt(probability * (1 - probability) / draws)
        assert abs(drawn[token] / draws - probability) <= 5 * spread + 1e-9


@given(row=logits)
def test_temperature_zero_takes_the_highest(row: list[float]) -> None:
    assert one(torch.tensor(row), SamplingParams(temperature=0)) == row.index(max(row))


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-38, 1e-45, 1e-300])
def test_temperature_near_zero_is_nearly_greedy(temperature: float) -> None:
    """Dividing first overflowed to inf - inf = NaN, and with top_p nothing was left to draw."""
    row = torch.tensor([0.0, 9.0, -9.0, 8.5])
    assert one(row, SamplingParams(temperature=temperature, top_p=0.5)) == 1
    assert one(row, SamplingParams(temperature=temperature)) == 1


def test_a_seed_draws_the_same_alone_and_in_a_batch() -> None:
    table = torch.randn(5, 50, generator=torch.Generator().manual_seed(3))
    params = [SamplingParams(seed=seed, temperature=1.2) for seed in (1, 2, 3, 4)]
    params.insert(2, SamplingParams(temperature=0))
    batch = sample(table, params, [generator_for(p) for p in params], [()] * 5).tolist()
    assert batch == [one(row, p) for row, p in zip(table, params, strict=True)]


def test_choices_of_one_seed_differ() -> None:
    params = SamplingParams(seed=11)
    row = torch.zeros(1000)
    drawn = [one(row, params, choice) for choice in range(6)]
    assert drawn == [one(row, params, choice) for choice in range(6)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    params = SamplingParams(seed=seed)
    assert one(torch.zeros(100), params) == one(torch.zeros(100), params)


def test_without_a_seed_two_runs_differ() -> None:
    row = torch.zeros(2**16)
    assert len({one(row, SamplingParams()) for _ in range(4)}) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forbidden_ids_are_not_chosen_and_the_logits_stay(temperature: float) -> None:
    row = torch.tensor([[5.0, 4.0, -1.0]])
    params = SamplingParams(temperature=temperature, top_k=1)
    chosen = sample(row, [params], [generator_for(params)], [(0,)])
    assert chosen.tolist() == [1]
    assert row.tolist() == [[5.0, 4.0, -1.0]]


def test_sixteen_bit_logits_are_sampled_in_float32() -> None:
    row = torch.tensor([0.1, 0.2, 0.3], dtype=torch.bfloat16)
    assert one(row, SamplingParams(temperature=0)) == 2
    assert log_probs(row[None]).dtype is torch.float32


def test_log_probs_are_a_distribution_before_temperature() -> None:
    rows = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_probs(rows).exp().sum(-1), torch.ones(3))
    torch.testing.assert_close(log_probs(rows), rows.log_softmax(-1))
