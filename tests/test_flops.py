"""The closed forms against published figures, and against themselves in simple cases."""

from __future__ import annotations

import math

import pytest

from dyvte.flops import (
    DecoderShape,
    FlopsReport,
    VisionShape,
    gate_flops,
    kv_bytes,
    llm_prefill,
    macs_visual,
    paper,
    request_flops,
)

LLAVA_7B = DecoderShape(
    num_layers=32,
    hidden_size=4096,
    intermediate_size=11008,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    vocab_size=32064,
)
CLIP_L_336 = VisionShape(
    num_layers=24,
    hidden_size=1024,
    intermediate_size=4096,
    patches=576,
    rows=577,
    patch_inputs=3 * 14 * 14,
    projector_in=1024,
    projector_hidden=4096,
    projector_out=4096,
)
GROUPED = DecoderShape(
    num_layers=3,
    hidden_size=8,
    intermediate_size=20,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    vocab_size=50,
)
VISUAL = 576


def convention_c(rows: int) -> int:
    """LLaVA-1.5-7B's prefill of ``rows`` rows as DyVTE's tables count it, with no exit."""
    return paper(LLAVA_7B, CLIP_L_336, 1, [rows] * LLAVA_7B.num_layers)


def rows_costing(tera: float) -> int:
    """The prompt length whose full prefill costs ``tera`` TFLOPs under convention C."""
    return min(range(VISUAL, 1024), key=lambda rows: abs(convention_c(rows) - tera * 1e12))


def with_exit_at(rows: int, exit_layer: float) -> float:
    """Convention C with visual tokens in e + 1 layers; a mean e lies between two layers."""

    def at(e: int) -> int:
        deep = LLAVA_7B.num_layers - (e + 1)
        per_layer = [rows] * (e + 1) + [rows - VISUAL] * deep
        return paper(LLAVA_7B, CLIP_L_336, 1, per_layer)

    low = math.floor(exit_layer)
    share = exit_layer - low
    return (1 - share) * at(low) + share * at(low + 1)


def test_convention_a_is_the_3_82_t_of_the_pruning_papers() -> None:
    assert macs_visual(LLAVA_7B, VISUAL) == pytest.approx(3.817e12, rel=1e-3)


def test_convention_b_is_the_8_5_t_of_shortv_and_vtw() -> None:
    assert llm_prefill(LLAVA_7B, [640] * 32) == pytest.approx(8.504e12, rel=1e-3)


def test_convention_c_is_the_8_8_t_of_dyvte() -> None:
    assert convention_c(632) == pytest.approx(8.8e12, rel=0.01)
    assert CLIP_L_336.tower(1) == pytest.approx(0.382e12, rel=0.01)
    assert CLIP_L_336.projector(1) == pytest.approx(0.024e12, rel=0.02)


@pytest.mark.parametrize(
    ("task", "vanilla", "exit_layer", "computed", "published"),
    [
        ("GQA", 8.8, 16.4, 5.30, 5.3),
        ("MM-Vet", 8.7, 21.1, 6.33, 6.3),
        ("SQA", 9.8, 13.4, 5.56, 5.5),
        ("TextVQA", 9.5, 19.7, 6.78, 6.7),
    ],
)
def test_published_exit_layers_cost_what_the_paper_prints(
    task: str, vanilla: float, exit_layer: float, computed: float, published: float
) -> None:
    ours = with_exit_at(rows_costing(vanilla), exit_layer) / 1e12
    assert ours == pytest.approx(published, rel=0.015), task
    assert ours == pytest.approx(computed, abs=0.01), task


def test_a_decoded_token_at_640_keys_costs_13_3_gflop_and_the_head_0_26() -> None:
    assert LLAVA_7B.decode([639] * 32, steps=1) == pytest.approx(13.3e9, rel=0.01)
    assert LLAVA_7B.head(1) == pytest.approx(0.26e9, rel=0.02)


def test_a_published_gate_costs_33_6_mflop() -> None:
    assert gate_flops(4096, 2048) == pytest.approx(33.6e6, rel=0.01)


def test_grouped_queries_narrow_only_keys_and_values() -> None:
    by_hand = 2 * (8 * 16 + 8 * 8 + 8 * 8 + 16 * 8 + 3 * 8 * 20)
    assert GROUPED.linear(rows=1) == by_hand
    assert GROUPED.attention(rows=1, keys=5) == 2 * 2 * 5 * 16


def test_decoding_in_one_go_is_the_sum_of_its_steps() -> None:
    held = [10, 10, 4]
    one_by_one = sum(GROUPED.decode([kv + s for kv in held], steps=1) for s in range(7))
    assert GROUPED.decode(held, steps=7) == one_by_one


def test_no_exit_saves_nothing_and_gates_make_it_negative() -> None:
    kept = request_flops(
        GROUPED, vision=100, prompt_tokens=9, tokens_per_layer=[9, 9, 9], decode_steps=[4]
    )
    assert (kept.saved, kept.saved_ratio) == (0, 0.0)
    asked = request_flops(
        GROUPED,
        vision=100,
        prompt_tokens=9,
        tokens_per_layer=[9, 9, 9],
        decode_steps=[4],
        gates=50,
    )
    assert asked.saved == -50


def test_an_exit_saves_in_prefill_and_in_every_decode_step_but_not_in_the_head() -> None:
    report = request_flops(
        GROUPED, vision=0, prompt_tokens=9, tokens_per_layer=[9, 3, 3], decode_steps=[5]
    )
    prefill = 2 * (GROUPED.layer(9, 9) - GROUPED.layer(3, 3))
    decode = GROUPED.attention(rows=5, keys=2 * 6)
    assert report.saved == prefill + decode
    assert report.head == GROUPED.head(6)


def test_several_choices_share_one_prefill() -> None:
    def cost(steps: list[int]) -> FlopsReport:
        return request_flops(
            GROUPED, vision=7, prompt_tokens=9, tokens_per_layer=[9, 9, 3], decode_steps=steps
        )

    one, three = cost([4]), cost([4, 4, 4])
    assert (three.vision, three.prefill) == (one.vision, one.prefill)
    assert three.decode == 3 * one.decode


def test_a_cache_lowers_what_ran_and_not_what_it_counts_as() -> None:
    report = FlopsReport(prefill=100, head=10, baseline=150, avoided_by_cache=60)
    assert (report.total, report.executed, report.saved) == (110, 50, 40)


def test_an_empty_report_has_a_saved_ratio_of_zero() -> None:
    assert FlopsReport().saved_ratio == 0.0


def test_kv_bytes_count_keys_and_values_of_every_row_held() -> None:
    assert kv_bytes(GROUPED, [631, 631, 55], itemsize=2) == 2 * 8 * 2 * (631 + 631 + 55)
