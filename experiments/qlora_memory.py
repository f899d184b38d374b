"""QLoRA's Figure 6: where the bytes of a training step of LLaMA go.

The formulas of `lora_jax.accounting.llama_memory` beside the published bars. Dettmers
et al. 2023 (arXiv 2305.14314v1), pages 4 and 26. `memory.py` counts the rows and puts
this page at the end of its own.
"""

from collections.abc import Iterable, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lora_jax import paper
from lora_jax.accounting.llama_memory import LLAMAS, PARTS
from lora_jax.paper.qlora import MB, figure6
from lora_jax.results.claims import VALUES, Verdict
from lora_jax.results.report import markdown
from lora_jax.results.stacked_bars import Bar, Panel, stacked

# The settings of the figure: r = 64 on every matrix of the blocks, and one sequence of
# 512 tokens with gradient checkpointing.
CONFIGS = [{"base": name, "rank": 64, "block": 64, "tokens": 512} for name in LLAMAS]
LARGEST = "LLaMA 65B"


def metrics_by_model(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the metrics of each model; none while a row is missing."""
    metrics = {}
    for row in rows:
        if row["config"] in CONFIGS:
            metrics[row["config"]["base"]] = row["metrics"]
    if len(metrics) < len(LLAMAS):
        return {}
    return {name: metrics[name] for name in LLAMAS}


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A line for each model and part, in MB; empty while a row is missing."""
    published = figure6()
    lines = []
    for name, metrics in metrics_by_model(rows).items():
        for part in (*PARTS, "total"):
            bar = published[name, part]
            ours, fitted = metrics[f"ours/{part}"] / MB, metrics[f"fitted/{part}"] / MB
            line = {
                "model": name,
                "part": part,
                "paper": bar,
                "ours": ours,
                "difference, %": 100 * (ours / bar - 1),
                "fitted": fitted,
                "of fitted, %": 100 * (fitted / bar - 1),
            }
            lines.append(line)
    return pd.DataFrame(lines)


def section(rows: Sequence[dict[str, Any]], picture: str) -> list[str]:
    """The figure beside ours, and what explains the differences.

    Nothing while a row is missing.
    """
    metrics = metrics_by_model(rows)
    if not metrics:
        return []
    lines = table(rows)
    values = lines.set_index(["part", "model"]).to_dict()
    published = figure6()
    total = sum(published[LARGEST, part] for part in PARTS)

    def enumerate_models(column: dict[tuple[str, str], float], part: str) -> str:
        return in_words(column[part, name] for name in LLAMAS)

    def left_over(part: str) -> str:
        bars, fitted = values["paper"], values["fitted"]
        return in_words(bars[part, name] - fitted[part, name] for name in LLAMAS)

    explained = EXPLAINED.format(
        far=in_words(-values["difference, %"]["model", name] for name in LLAMAS),
        bits=growth(MB),
        other=growth(10**6),
        left=left_over("model"),
        gradient=enumerate_models(values["fitted"], "input gradient"),
        away=left_over("input gradient"),
        kept=in_words(
            model["sequence/inputs_of_blocks"] / MB for model in metrics.values()
        ),
        label=published[LARGEST, "total"] / 1000,
        total=total / 1000,
        bytes=total * MB / 1e9,
    )
    digits = dict.fromkeys(lines.columns[2:], 1)
    return [
        ASSUMED,
        markdown(lines, digits=digits),
        f"![Figure 6]({picture})\n",
        explained,
    ]


def in_words(numbers: Iterable[float]) -> str:
    """The numbers without decimals: `1, 2 and 3`."""
    *first, last = [f"{number:,.0f}" for number in numbers]
    return f"{', '.join(first)} and {last}"


def growth(mb: int) -> float:
    """Bits by which the published model bars grow for each parameter of the blocks.

    From 7B to 65B, with `mb` bytes an MB.
    """
    names = list(LLAMAS)
    small, large = LLAMAS[names[0]], LLAMAS[names[-1]]
    published = figure6()
    small_bytes = mb * published[names[0], "model"] - 2 * small.other_parameters
    large_bytes = mb * published[names[-1], "model"] - 2 * large.other_parameters
    parameters = large.block_parameters - small.block_parameters
    return 8 * (large_bytes - small_bytes) / parameters


ASSUMED = """## QLoRA Figure 6: a step of LLaMA

What is there while QLoRA trains with r = 64 on all matrices of the blocks, on one sequence of 512 tokens with gradient
checkpointing. An MB is 2^20 bytes here, as in the paper. With L layers, h the width, f the feed-forward width and T tokens, S is
the sum of inputs and outputs over the matrices of a block: 11 h + 3 f for query, key, value, output, gate, up and down.

- *model*: these matrices in NF4 with block 64 and double quantisation (4.127 bits); embedding, head and norms in 16 bits.
- *adapters*: 2 r L S bytes, in 16 bits. *weight gradient*: the same. *optimizer*: Adam's two moments in FP32, 4 times that.
- *input gradient*: of all these inputs and outputs, in 16 bits: 2 T S bytes, since checkpointing has one block at a time.
- *fitted*: what comes nearest: S = 18 h, and no double quantisation (4.5 bits).

The paper's input gradients are read off the bars, to 25 MB (7B) up to 140 MB (65B). Its weight gradients are not printed; their
bars are as high as the adapters'. In the picture *label* is the total that the paper prints, in GB, times a thousand.
"""
EXPLAINED = """- **Adapters and optimiser** are as printed, to the digit, with S = 18 h: 8 h for attention, 10 h for an MLP of two
  matrices, 4 h wide. LLaMA's has three, narrower ones, so that S is 19.1 h: 6 % more.
- **The models' bars** are not explained: ours are {far} % below. But they grow by {bits:.2f} bits for each parameter
  of the blocks, which is NF4 without double quantisation (4.5) rather than with it (4.127; were their MB 10^6 bytes it would be
  {other:.2f}, between the two). Without it {left} MB are left over, nearly the same for each model, as is what a GPU's
  process holds beside its tensors. How the bars were measured is not known.
- **Input gradient.** None is printed, nor a formula. 18 MB a sequence (section 2, 7B) are 2 T 18 h if a sequence has 128 tokens;
  32 blocks of them would be 576 MB, and the paper has 567 for a step without checkpointing. For 512 tokens that is {gradient}
  MB, from which the bars are {away} MB away: more than they can be misread by at 7B, not at 65B. The input of each block,
  which checkpointing keeps (2 L T h: {kept} MB), is not in the figure, and neither are attention and logits.
- **Totals.** The label of 65B is {label:.1f} GB, but its parts sum to {total:.1f}; the other labels fit. In bytes these parts are
  {bytes:.1f} GB of 10^9, about the claim's 48; a card of 48 GB has 48 x 2^30. Ours stay below either.
"""


def figure(rows: Sequence[dict[str, Any]]) -> Figure | None:
    """Stacked bars, the paper's with its label beneath, two models in a column.

    All are on one scale. None while a row is missing.
    """
    if not metrics_by_model(rows):
        return None
    panels = []
    for name, lines in table(rows).groupby("model", sort=False):
        values = lines.set_index("part").to_dict()
        bars = []
        for account in ("paper", "ours", "fitted"):
            parts = {}
            for part in PARTS:
                parts[part.removeprefix("weight ")] = values[account][part]
            bars.append(Bar(account, parts))
        bars[0] = bars[0]._replace(whole=values["paper"]["total"])
        panels.append(Panel(str(name), bars))
    columns = [panels[::2], panels[1::2]]
    return stacked(columns, xlabel="MB of 2^20 bytes", whole="label")


def verdicts(rows: Sequence[dict[str, Any]]) -> list[Verdict]:
    """Figure 6 by its totals, and the claim on 65B; nothing while a row is missing."""
    metrics = metrics_by_model(rows)
    if not metrics:
        return []
    return [_verdict_on_totals(rows), *_verdicts_on_65b(metrics[LARGEST])]


def _verdict_on_totals(rows: Sequence[dict[str, Any]]) -> Verdict:
    totals = table(rows).query("part == 'total'")
    printed = [f"{mb / 1000:.1f}" for mb in totals["paper"]]
    ours = [f"{mb / 1000:.1f}" for mb in totals["ours"]]
    reached = []
    for mb, bar in zip(totals["ours"], printed, strict=True):
        reached.append(judge_value(mb / 1000, bar))
    names = ", ".join(name.split()[1] for name in LLAMAS)
    return Verdict(
        "QLoRA Figure 6",
        f"LLaMA {names} in all: {', '.join(printed)} GB",
        f"{', '.join(ours)} GB; adapters as printed with 18 h",
        # The worst of the four.
        max(reached, key=list(VALUES).index),
    )


def _verdicts_on_65b(metrics: dict[str, float]) -> list[Verdict]:
    claims = paper.claims().published_value
    full_claim, qlora_claim = float(claims["Q1"]), float(claims["Q2"].strip("< "))
    full = metrics["full/total"] / 1e9
    qlora = (metrics["ours/total"] + metrics["sequence/inputs_of_blocks"]) / 1e9
    return [
        Verdict(
            "QLoRA section 1",
            f"memory, 65B, 16-bit fine-tuning: > {full_claim:g} GB (Q1)",
            f"{full:.1f} GB at 12 bytes each",
            "fitted" if full > full_claim else "unexplained",
        ),
        Verdict(
            "QLoRA section 1",
            f"memory, 65B, QLoRA: < {qlora_claim:g} GB (Q2)",
            f"{qlora:.1f} GB, inputs of blocks included",
            "equal" if qlora < qlora_claim else "unexplained",
        ),
    ]


def judge_value(value: float, printed: str) -> str:
    """Return the verdict on a value beside a printed one, such as `350` or `0.67`.

    It is equal or truncated at the last printed digit, near (within 10 %), or
    unexplained.
    """
    published, exact = Decimal(printed), Decimal(value)
    if exact.quantize(published, ROUND_HALF_UP) == published:
        return "equal"
    if exact.quantize(published, ROUND_DOWN) == published:
        return "truncated"
    is_near = abs(exact / published - 1) <= Decimal("0.1")
    return "near" if is_near else "unexplained"
