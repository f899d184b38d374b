"""QLoRA's Figure 6 by formula: the bars, the page drawn from them, and its verdicts."""

from typing import Any

import pytest
import qlora_memory

from lora_jax import paper
from lora_jax.accounting.llama_memory import LLAMAS, PARTS, step_bytes
from lora_jax.paper.qlora import MB, figure6
from lora_jax.results import claims

ROWS: list[dict[str, Any]] = []
for item in qlora_memory.measurements(qlora_memory.Options(), None, None):
    config = dict(item.settings)
    ROWS.append({"config": config, "metrics": step_bytes(**config)})
METRICS = {row["config"]["base"]: row["metrics"] for row in ROWS}


@pytest.fixture(scope="module")
def report():
    return qlora_memory.show(ROWS)


def bars_of(part: str) -> list[float]:
    bars = figure6()
    return [bars[name, part] for name in LLAMAS]


def excess(part: str) -> list[float]:
    """What the paper's bars have more than the fitted ones, in MB."""
    fitted = [metrics[f"fitted/{part}"] / MB for metrics in METRICS.values()]
    pairs = zip(bars_of(part), fitted, strict=True)
    return [bar - size for bar, size in pairs]


def test_the_models_bars_grow_as_nf4_without_double_quantization():
    assert qlora_memory.growth(2**20) == pytest.approx(4.54, abs=0.005)
    over = excess("model")
    assert 1000 < min(over) < max(over) < 1350  # of models of 7 to 65 billion


def test_the_input_gradients_are_those_of_18_h():
    step = step_bytes("LLaMA 7B", rank=64, block=64, tokens=128)
    size = step["fitted/input gradient"] / MB
    assert size == paper.claims().published_value["Q9"] == 18
    assert 32 * size == 576
    assert excess("input gradient") == [33, 13, 34, -4]


def test_one_printed_total_is_not_the_sum_of_its_parts():
    sums = [sum(bars) for bars in zip(*map(bars_of, PARTS), strict=True)]
    fits = []
    for total, label in zip(sums, bars_of("total"), strict=True):
        fits.append(round(total / 1000, 1) == label / 1000)
    assert fits == [True, True, True, False]
    assert sums[3] == 45854


def test_the_table_has_every_bar_and_its_difference(report):
    lines = report.data
    assert len(lines) == 24
    adapters = lines.iloc[1]
    assert list(adapters[["model", "part", "paper"]]) == ["LLaMA 7B", "adapters", 288]
    numbers = adapters[["ours", "difference, %", "fitted", "of fitted, %"]]
    assert [round(number, 1) for number in numbers] == [305.0, 5.9, 288.0, 0.0]
    assert list(lines.iloc[23][["model", "part", "paper"]]) == [
        "LLaMA 65B",
        "total",
        45000,
    ]


def test_the_text_has_the_numbers_of_the_bars(report):
    text = report.sections[0].blocks[1]
    assert "45.0 GB, but its parts sum to 45.9" in text
    assert "48.1 GB of 10^9" in text


def test_bars_are_stacked_to_the_totals_beside_the_papers_label(report):
    figure = report.figures[""]
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "LLaMA 7B",
        "LLaMA 33B",
        "LLaMA 13B",
        "LLaMA 65B",
    ]
    patches: Any = figure.axes[3].patches
    ends = [bar.get_x() + bar.get_width() for bar in patches]
    largest = METRICS["LLaMA 65B"]
    totals = [largest[f"{name}/total"] / MB for name in ("ours", "fitted")]
    assert ends[12:] == pytest.approx([45854, *totals, 45000])


def test_verdicts(report):
    bars, full, small = report.claims
    sizes = "LLaMA 7B, 13B, 33B, 65B in all: 6.9, 11.3, 24.7, 45.0 GB"
    assert (bars.statement, bars.verdict) == (sizes, claims.UNEXPLAINED)
    assert full.evidence == "783.4 GB at 12 bytes each"
    assert full.verdict == claims.FITTED
    assert small.statement.endswith("< 48 GB (Q2)")
    assert small.verdict == claims.EQUAL
    assert float(small.evidence.split()[0]) == pytest.approx(44.9, abs=0.05)


def test_nothing_is_concluded_while_a_model_is_missing():
    report = qlora_memory.show(ROWS[1:])
    assert report.claims == []
    assert len(report.sections[0].blocks) == 1


def test_an_unknown_model_is_refused():
    options = qlora_memory.Options(models=("LLaMA 8B",))
    message = "models: expected some of LLaMA 7B, .*, got LLaMA 8B"
    with pytest.raises(ValueError, match=message):
        qlora_memory.measurements(options, None, None)
