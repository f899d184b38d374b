"""QLoRA's Figure 6: sizes against the public models, bytes against the library's own quantised values, bars against the paper."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import paper, quant
from lora_jax.accounting import llama_memory
from lora_jax.accounting.llama_memory import CELLS, LLAMA, PARTS

ROWS: list[dict[str, Any]] = [
    {"config": cell, "metrics": llama_memory.step(**cell)} for cell in CELLS
]
METRICS = {row["config"]["base"]: row["metrics"] for row in ROWS}


def figure_6(part: str) -> list[float]:
    table = (
        paper.table("qlora_fig6_memory_breakdown")
        .set_index(["component", "model"])["value"]
        .to_dict()
    )
    return [table[part, name] for name in LLAMA]


def mb(metric: str) -> list[float]:
    return [at[metric] / 2**20 for at in METRICS.values()]


def test_the_models_have_the_public_sizes():
    every = [at["full/parameters"] for at in METRICS.values()]
    assert every == [6_738_415_616, 13_015_864_320, 32_528_943_616, 65_285_660_672]
    assert (
        METRICS["LLaMA 7B"]["ours/adapters"] == 2 * 159_907_840
    )  # as peft counts r = 64 on all linear layers


@pytest.mark.parametrize(("double", "bits"), [(True, 4.127), (False, 4.5)])
def test_the_matrices_take_the_papers_bits_and_the_bytes_of_the_library(double, bits):
    for sizes in LLAMA.values():
        for shape in dict.fromkeys(sizes.matrices):
            value = jax.eval_shape(
                lambda: quant.quantize(jnp.zeros(shape), "nf4", double=double)  # noqa: B023
            )
            assert (
                llama_memory.quantized(shape[0] * shape[1], 64, double=double)
                == value.nbytes
            )
            assert 8 * value.nbytes / value.size == pytest.approx(bits, abs=5e-4)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([32, 64, 256]),
    st.booleans(),
)
def test_so_do_matrices_of_any_size(a, b, block, double):
    value = jax.eval_shape(
        lambda: quant.quantize(jnp.zeros((a, b)), "nf4", block=block, double=double)
    )
    assert llama_memory.quantized(a * b, block, double=double) == value.nbytes


def test_a_step_by_hand():
    sizes = LLAMA["LLaMA 7B"]
    assert sizes.sides == 11 * 4096 + 3 * 11008 and sizes.body == 32 * (
        4 * 4096**2 + 3 * 4096 * 11008
    )
    at = llama_memory.step("LLaMA 7B", rank=2, block=64, tokens=10)
    adapters = 2 * 32 * 2 * (11 * 4096 + 3 * 11008)
    assert [at[f"ours/{part}"] for part in PARTS[1:]] == [
        adapters,
        adapters,
        4 * adapters,
        2 * 10 * sizes.sides,
    ]
    assert at["fitted/model"] == sizes.body * 4.5 / 8 + 2 * sizes.rest
    assert at["ours/total"] == sum(at[f"ours/{part}"] for part in PARTS)
    assert at["sequence/inputs_of_blocks"] == 32 * 10 * 4096 * 2


def test_18_h_gives_the_printed_adapters_and_optimiser_to_the_digit():
    assert (
        mb("fitted/adapters")
        == mb("fitted/weight gradient")
        == figure_6("adapters")
        == [288, 450, 877.5, 1440]
    )
    assert mb("fitted/optimizer") == figure_6("optimizer")
    assert mb("ours/adapters") == [305, 477.5, 930, 1525]


def test_what_the_page_says_of_the_bars():
    assert llama_memory.growth(2**20) == pytest.approx(4.54, abs=0.005)
    over = [
        bar - ours
        for bar, ours in zip(figure_6("model"), mb("fitted/model"), strict=True)
    ]
    assert 1000 < min(over) < max(over) < 1350  # MB, of models of 7 to 65 billion
    again = (
        llama_memory.step("LLaMA 7B", rank=64, block=64, tokens=128)[
            "fitted/input gradient"
        ]
        / 2**20
    )
    assert again == paper.claims().published_value["Q9"] == 18 and 32 * again == 576
    assert [round(sizes.sides / sizes.width, 1) for sizes in LLAMA.values()] == [
        19.1
    ] * 4
    over = [
        bar - ours
        for bar, ours in zip(
            figure_6("input gradient"), mb("fitted/input gradient"), strict=True
        )
    ]
    assert over == [33, 13, 34, -4]
    sums = [sum(figure_6(part)[i] for part in PARTS) for i in range(4)]
    fits = [
        round(total / 1000, 1) == label
        for total, label in zip(sums, figure_6("total"), strict=True)
    ]
    assert fits == [True, True, True, False] and sums[3] == 45854


def test_the_section_has_every_bar_and_its_difference():
    page = "\n".join(llama_memory.section(ROWS, "picture.png"))
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if line.startswith("| LLaMA")
    ]
    assert len(lines) == 24
    assert lines[1] == ["LLaMA 7B", "adapters", "288.0", "305.0", "5.9", "288.0", "0.0"]
    assert lines[23][:3] == ["LLaMA 65B", "total", "45000.0"]
    assert (
        "![Figure 6](picture.png)" in page
        and "45.0 GB, but its parts sum to 45.9" in page
        and "48.1 GB of 10^9" in page
    )


def test_bars_are_stacked_to_the_totals_beside_the_papers_label():
    figure = llama_memory.figure(ROWS)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "LLaMA 7B",
        "LLaMA 33B",
        "LLaMA 13B",
        "LLaMA 65B",
    ]
    patches: Any = figure.axes[3].patches
    ends = [bar.get_x() + bar.get_width() for bar in patches]
    ours = METRICS["LLaMA 65B"]["ours/total"] / 2**20
    assert ends[12:] == pytest.approx(
        [45854, ours, METRICS["LLaMA 65B"]["fitted/total"] / 2**20, 45000]
    )


def test_verdicts():
    figure, full, small = llama_memory.verdicts(ROWS)
    assert (
        figure.published == "LLaMA 7B, 13B, 33B, 65B in all: 6.9, 11.3, 24.7, 45.0 GB"
        and figure.verdict == "unexplained"
    )
    assert (full.ours, full.verdict) == ("783.4 GB at 12 bytes each", "fitted")
    assert small.published.endswith("< 48 GB (Q2)") and small.verdict == "equal"
    assert float(small.ours.split()[0]) == pytest.approx(44.9, abs=0.05)


def test_nothing_is_said_while_a_row_is_missing_or_of_other_settings():
    other = {"config": {**CELLS[0], "rank": 8}, "metrics": {}}
    for rows in ([], ROWS[1:], [*ROWS[1:], other]):
        assert (
            llama_memory.section(rows, "") == llama_memory.verdicts(rows) == []
            and llama_memory.figure(rows) is None
        )
    assert llama_memory.section([other, *ROWS[::-1]], "") == llama_memory.section(
        ROWS, ""
    )
