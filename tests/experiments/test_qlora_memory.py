"""The page on QLoRA's Figure 6: what it says of the bars, and its verdicts."""

from typing import Any

import pytest
import qlora_memory
from qlora_memory import CONFIGS

from lora_jax import paper
from lora_jax.accounting.llama_memory import LLAMAS, PARTS, step_bytes
from lora_jax.paper.qlora import figure6

ROWS: list[dict[str, Any]] = [
    {"config": config, "metrics": step_bytes(**config)} for config in CONFIGS
]
METRICS = {row["config"]["base"]: row["metrics"] for row in ROWS}


def figure_6(part: str) -> list[float]:
    bars = figure6()
    return [bars[name, part] for name in LLAMAS]


def mb(metric: str) -> list[float]:
    return [metrics[metric] / 2**20 for metrics in METRICS.values()]


def test_what_the_page_says_of_the_bars():
    assert qlora_memory.growth(2**20) == pytest.approx(4.54, abs=0.005)
    over = [
        bar - ours
        for bar, ours in zip(figure_6("model"), mb("fitted/model"), strict=True)
    ]
    assert 1000 < min(over) < max(over) < 1350  # MB, of models of 7 to 65 billion
    again = (
        step_bytes("LLaMA 7B", rank=64, block=64, tokens=128)["fitted/input gradient"]
        / 2**20
    )
    assert again == paper.claims().published_value["Q9"] == 18 and 32 * again == 576
    assert [round(sizes.sides / sizes.width, 1) for sizes in LLAMAS.values()] == [
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
        round(total / 1000, 1) == label / 1000
        for total, label in zip(sums, figure_6("total"), strict=True)
    ]
    assert fits == [True, True, True, False] and sums[3] == 45854


def test_the_section_has_every_bar_and_its_difference():
    page = "\n".join(qlora_memory.section(ROWS, "picture.png"))
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
    figure = qlora_memory.figure(ROWS)
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
    figure, full, small = qlora_memory.verdicts(ROWS)
    assert (
        figure.published == "LLaMA 7B, 13B, 33B, 65B in all: 6.9, 11.3, 24.7, 45.0 GB"
        and figure.verdict == "unexplained"
    )
    assert (full.ours, full.verdict) == ("783.4 GB at 12 bytes each", "fitted")
    assert small.published.endswith("< 48 GB (Q2)") and small.verdict == "equal"
    assert float(small.ours.split()[0]) == pytest.approx(44.9, abs=0.05)


def test_nothing_is_said_while_a_row_is_missing_or_of_other_settings():
    other = {"config": {**CONFIGS[0], "rank": 8}, "metrics": {}}
    for rows in ([], ROWS[1:], [*ROWS[1:], other]):
        assert (
            qlora_memory.section(rows, "") == qlora_memory.verdicts(rows) == []
            and qlora_memory.figure(rows) is None
        )
    assert qlora_memory.section([other, *ROWS[::-1]], "") == qlora_memory.section(
        ROWS, ""
    )
