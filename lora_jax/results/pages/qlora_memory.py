"""The page on QLoRA's Figure 6: its table, explanations, claims and figure.

A row has the bytes of a QLoRA step of one LLaMA by two accounts, `ours` and `fitted`
(`accounting.llama_memory.step_bytes`). An MB is 2^20 bytes here, as in the paper
(Dettmers et al. 2023, arXiv 2305.14314v1, pages 4 and 26).
"""

from collections.abc import Iterable, Mapping

import pandas as pd
from matplotlib.figure import Figure

from lora_jax import paper
from lora_jax.paper.qlora import MB, figure6
from lora_jax.results import claims
from lora_jax.results.claims import Claim
from lora_jax.results.rows import Row
from lora_jax.results.stacked_bars import Bar, Panel, stacked

Metrics = Mapping[str, float]
"""The bytes of one row: `ours/model`, `fitted/total` and so on."""

LARGEST = "LLaMA 65B"
TOTAL = "total"
# The order of bars in a panel.
ACCOUNTS = ("paper", "ours", "fitted")
EXPLANATION = """
- **Adapters and optimizer** are as printed, to the digit, with S = 18 h: 8 h for
  attention, and 10 h for an MLP of two matrices that are 4 h wide. LLaMA's MLP has three
  narrower ones, so that S is 19.1 h, which is 6 % more.
- **The models' bars** are not explained: ours are {below} % below them. But they grow by
  {bits:.2f} bits for each parameter of the blocks. That is NF4 without double
  quantization (4.5 bits) rather than with it (4.127 bits); if their MB were 10^6 bytes it
  would be {decimal_bits:.2f}, between the two. Without double quantization {left} MB are
  left over. That is nearly the same for each model, as is what a GPU's process holds
  beside its tensors. How the bars were measured is not known.
- **Input gradient.** No number is printed, and no formula. The 18 MB a sequence of
  section 2 (7B) are 2 T 18 h if a sequence has 128 tokens; 32 blocks of them would be 576
  MB, and the paper has 567 for a step without checkpointing. For 512 tokens it is
  {gradient} MB, from which the bars are {away} MB away. That is more than they can be
  misread by at 7B, but not at 65B. Checkpointing keeps the input of each block, which is
  2 L T h ({kept} MB). It is not in the figure, and neither are attention and logits.
- **Totals.** The label of 65B is {label:.1f} GB, but its parts sum to {total:.1f}; the
  other labels fit. In bytes these parts are {decimal_total:.1f} GB of 10^9, about the 48
  GB that the paper claims; a card of 48 GB has 48 x 2^30 bytes. Ours stay below either.
"""


def metrics_by_model(rows: Iterable[Row]) -> dict[str, Metrics]:
    """Return the bytes of each model that has a row, in the paper's order."""
    unordered = {row["config"]["base"]: row["metrics"] for row in rows}
    return {name: unordered[name] for name in _bars() if name in unordered}


def is_complete(metrics: Mapping[str, Metrics]) -> bool:
    """Return whether all models of the figure are there."""
    return set(metrics) >= set(_bars())


def bar_table(metrics: Mapping[str, Metrics]) -> pd.DataFrame:
    """Return a line for each model and part, and for its total, in MB.

    The columns are model, part, paper, and both accounts with their differences from
    the paper in %.
    """
    bars = _bars()
    lines = []
    for name, sizes in metrics.items():
        for part, bar in bars[name].items():
            # The total of a bar is its label, that of an account is its sum.
            ours = sizes[f"ours/{part}"] / MB
            fitted = sizes[f"fitted/{part}"] / MB
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


def explanation(
    metrics: Mapping[str, Metrics],
    table: pd.DataFrame,
    *,
    bits: float,
    decimal_bits: float,
) -> str:
    """Return what explains the differences, in numbers of all models.

    `table` is the `bar_table` of all of them. `bits` are those by which the models'
    bars grow for each parameter of the blocks, and `decimal_bits` the same if an MB
    were 10^6 bytes.
    """
    models = table[table.part == "model"]
    gradients = table[table.part == "input gradient"]
    # In the paper's order of models, as the table.
    inputs = [sizes["sequence/inputs_of_blocks"] / MB for sizes in metrics.values()]
    largest = dict(_bars()[LARGEST])
    label = largest.pop(TOTAL)
    # What the label should be.
    total = sum(largest.values())
    return EXPLANATION.format(
        below=in_words(-models["difference, %"]),
        bits=bits,
        decimal_bits=decimal_bits,
        left=in_words(models["paper"] - models["fitted"]),
        gradient=in_words(gradients["fitted"]),
        away=in_words(gradients["paper"] - gradients["fitted"]),
        kept=in_words(inputs),
        # The paper's labels are in GB of a thousand MB.
        label=label / 1000,
        total=total / 1000,
        decimal_total=total * MB / 1e9,
    )


def in_words(numbers: Iterable[float]) -> str:
    """Return the numbers without decimals: `1, 2 and 3`."""
    *first, last = [f"{number:,.0f}" for number in numbers]
    return f"{', '.join(first)} and {last}"


def figure(table: pd.DataFrame) -> Figure:
    """Draw stacked bars on one scale, two models in a column.

    Each model has a bar of the paper, with the printed label of its total, and one of
    each account.
    """
    panels = []
    for name, lines in table.groupby("model", sort=False):
        bars = []
        for account in ACCOUNTS:
            sizes = dict(zip(lines["part"], lines[account], strict=True))
            total = sizes.pop(TOTAL)
            # `gradient` is short enough for the legend.
            parts = {part.removeprefix("weight "): sizes[part] for part in sizes}
            # The other accounts' totals are the ends of their bars.
            bars.append(Bar(account, parts, total if account == "paper" else None))
        panels.append(Panel(str(name), bars))
    # Three models, or one, fill no two rows.
    is_even = len(panels) % 2 == 0
    rows = [panels[::2], panels[1::2]] if is_even else [panels]
    return stacked(rows, xlabel="MB of 2^20 bytes", total_label="label")


def figure6_claims(metrics: Mapping[str, Metrics], table: pd.DataFrame) -> list[Claim]:
    """Return the verdicts on the figure's totals, and on the paper's words on 65B.

    There are none as long as a model is missing.
    """
    if not is_complete(metrics):
        return []
    totals = table[table.part == TOTAL]
    # In GB of a thousand MB, as the figure's labels are.
    printed = [f"{mb / 1000:.1f}" for mb in totals["paper"]]
    ours = [f"{mb / 1000:.1f}" for mb in totals["ours"]]
    verdicts = []
    for mb, label in zip(totals["ours"], printed, strict=True):
        verdicts.append(claims.near_value(mb / 1000, label))
    # The claim is as good as the worst of its numbers.
    worst = max(verdicts, key=list(claims.VALUES).index)
    # `LLaMA 7B` is named by its size.
    sizes = ", ".join(name.split()[1] for name in metrics)
    statement = f"LLaMA {sizes} in all: {', '.join(printed)} GB"
    evidence = f"{', '.join(ours)} GB; adapters as printed with 18 h"
    in_all = Claim("QLoRA Figure 6", statement, evidence, worst)
    return [in_all, *_claims_on_largest(metrics[LARGEST])]


def _claims_on_largest(metrics: Metrics) -> list[Claim]:
    """Section 1: > 780 GB by full fine-tuning in 16 bits, < 48 GB by QLoRA."""
    published = paper.claims().published_value
    full_claim = float(published["Q1"])
    qlora_claim = float(published["Q2"].strip("< "))
    # GB of 10^9 bytes.
    full = metrics["full/total"] / 1e9
    qlora = metrics["ours/total"] + metrics["sequence/inputs_of_blocks"]
    qlora /= 1e9
    # The paper does not say that there are 12 bytes a parameter.
    full_verdict = claims.FITTED if full > full_claim else claims.UNEXPLAINED
    qlora_verdict = claims.EQUAL if qlora < qlora_claim else claims.UNEXPLAINED
    return [
        Claim(
            "QLoRA section 1",
            f"memory, 65B, 16-bit fine-tuning: > {full_claim:g} GB (Q1)",
            f"{full:.1f} GB at 12 bytes each",
            full_verdict,
        ),
        Claim(
            "QLoRA section 1",
            f"memory, 65B, QLoRA: < {qlora_claim:g} GB (Q2)",
            f"{qlora:.1f} GB, inputs of blocks included",
            qlora_verdict,
        ),
    ]


def _bars() -> dict[str, dict[str, float]]:
    """The paper's bars in MB, by model and by part; the total is the printed label."""
    bars: dict[str, dict[str, float]] = {}
    for (name, part), size in figure6().items():
        bars.setdefault(name, {})[part] = size
    return bars
