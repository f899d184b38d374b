"""QLoRA Figure 6: where do the bytes of a training step of LLaMA go?

What is there while QLoRA trains with r = 64 on all matrices of the blocks, on one
sequence of 512 tokens with gradient checkpointing (Dettmers et al. 2023, arXiv
2305.14314v1, pages 4 and 26), by the formulas of `lora_jax.accounting.llama_memory`. An
MB is 2^20 bytes here, as in the paper. With L layers, h the width, f the feed-forward
width and T tokens, S is the sum of inputs and outputs over the matrices of a block: 11 h
+ 3 f for query, key, value, output, gate, up and down.

- *model*: these matrices in NF4 with block 64 and double quantization (4.127 bits);
  embedding, head and norms in 16 bits.
- *adapters*: 2 r L S bytes, in 16 bits. *weight gradient*: the same. *optimizer*: Adam's
  two moments in FP32, 4 times that.
- *input gradient*: of all these inputs and outputs, in 16 bits: 2 T S bytes, since
  checkpointing has one block at a time.
- *fitted*: what comes nearest: S = 18 h, and no double quantization (4.5 bits).

The paper's input gradients are read off the bars, to 25 MB (7B) up to 140 MB (65B). Its
weight gradients are not printed; their bars are as high as the adapters'. In the
picture *label* is the total that the paper prints, in GB, times a thousand.

    python experiments/qlora_memory.py
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from lora_jax import paper, results
from lora_jax.accounting.llama_memory import LLAMAS, PARTS, step_bytes
from lora_jax.experiment import Experiment, Measurement
from lora_jax.paper.qlora import MB, figure6
from lora_jax.results import Claim, Comparison, Report, Section, claims
from lora_jax.results.stacked_bars import Bar, Panel, stacked

# The settings of the figure: r = 64 on every matrix of the blocks, and one sequence of
# 512 tokens with gradient checkpointing.
CONFIGS = [{"base": name, "rank": 64, "block": 64, "tokens": 512} for name in LLAMAS]
LARGEST = "LLaMA 65B"


@dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = tuple(LLAMAS)
    """Sizes of LLaMA."""


PRESETS = {name: (Options(), None) for name in ("smoke", "quick", "full")}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    unknown = [name for name in options.models if name not in LLAMAS]
    if unknown:
        raise ValueError(
            f"models: expected some of {', '.join(LLAMAS)}, got {', '.join(unknown)}"
        )
    chosen = [config for config in CONFIGS if config["base"] in options.models]
    return [Measurement((), config, measure) for config in chosen]


def measure(_trained, settings):
    for setting in settings:
        yield {"metrics": step_bytes(**setting)}


def show(rows: list) -> Report:
    metrics = metrics_by_model(rows)
    lines = table(metrics)
    digits = dict.fromkeys(lines.columns[2:], 1)
    blocks = [results.table(lines, digits=digits)]
    if len(metrics) == len(LLAMAS):
        blocks.append(explanation(metrics, lines))
    return Report(
        title="Memory of a QLoRA step",
        intro=__doc__,
        sections=[Section("The paper's bars and ours, in MB", blocks)],
        claims=figure6_claims(metrics, lines),
        data=lines,
        figures={"": figure(lines)},
        comparison=Comparison(by=("model", "part"), value="ours", error=""),
    )


def metrics_by_model(rows: list) -> dict[str, dict[str, float]]:
    """The metrics of each model that has a row, in the paper's order."""
    metrics = {}
    for name in LLAMAS:
        for row in rows:
            if row["config"]["base"] == name:
                metrics[name] = row["metrics"]
    return metrics


def table(metrics_by_name: dict) -> pd.DataFrame:
    """A line for each model and part, in MB."""
    published = figure6()
    lines = []
    for name, metrics in metrics_by_name.items():
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


def explanation(metrics: dict, lines: pd.DataFrame) -> str:
    """What explains the differences, in numbers of all models."""
    values = lines.set_index(["part", "model"]).to_dict()
    published = figure6()
    total = sum(published[LARGEST, part] for part in PARTS)

    def enumerate_models(column: dict[tuple[str, str], float], part: str) -> str:
        return in_words(column[part, name] for name in LLAMAS)

    def left_over(part: str) -> str:
        bars, fitted = values["paper"], values["fitted"]
        return in_words(bars[part, name] - fitted[part, name] for name in LLAMAS)

    return EXPLAINED.format(
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


EXPLAINED = """- **Adapters and optimizer** are as printed, to the digit, with S = 18 h: 8 h for attention, 10 h for an MLP of two
  matrices, 4 h wide. LLaMA's has three, narrower ones, so that S is 19.1 h: 6 % more.
- **The models' bars** are not explained: ours are {far} % below. But they grow by {bits:.2f} bits for each parameter
  of the blocks, which is NF4 without double quantization (4.5) rather than with it (4.127; were their MB 10^6 bytes it would be
  {other:.2f}, between the two). Without it {left} MB are left over, nearly the same for each model, as is what a GPU's
  process holds beside its tensors. How the bars were measured is not known.
- **Input gradient.** None is printed, nor a formula. 18 MB a sequence (section 2, 7B) are 2 T 18 h if a sequence has 128 tokens;
  32 blocks of them would be 576 MB, and the paper has 567 for a step without checkpointing. For 512 tokens that is {gradient}
  MB, from which the bars are {away} MB away: more than they can be misread by at 7B, not at 65B. The input of each block,
  which checkpointing keeps (2 L T h: {kept} MB), is not in the figure, and neither are attention and logits.
- **Totals.** The label of 65B is {label:.1f} GB, but its parts sum to {total:.1f}; the other labels fit. In bytes these parts are
  {bytes:.1f} GB of 10^9, about the claim's 48; a card of 48 GB has 48 x 2^30. Ours stay below either.
"""


def figure(lines: pd.DataFrame):
    """Stacked bars on one scale, two models in a column; the paper's with its label."""
    panels = []
    for name, part_lines in lines.groupby("model", sort=False):
        values = part_lines.set_index("part").to_dict()
        bars = []
        for account in ("paper", "ours", "fitted"):
            parts = {}
            for part in PARTS:
                parts[part.removeprefix("weight ")] = values[account][part]
            bars.append(Bar(account, parts))
        bars[0] = bars[0]._replace(total=values["paper"]["total"])
        panels.append(Panel(str(name), bars))
    # Three models, or one, fill no two rows.
    is_even = len(panels) % 2 == 0
    rows = [panels[::2], panels[1::2]] if is_even else [panels]
    return stacked(rows, xlabel="MB of 2^20 bytes", total_label="label")


def figure6_claims(metrics: dict, lines: pd.DataFrame) -> list[Claim]:
    """Figure 6 by its totals, and the paper's words on 65B."""
    if len(metrics) < len(LLAMAS):
        return []
    totals = lines[lines.part == "total"]
    printed = [f"{mb / 1000:.1f}" for mb in totals["paper"]]
    ours = [f"{mb / 1000:.1f}" for mb in totals["ours"]]
    verdicts = []
    for mb, bar in zip(totals["ours"], printed, strict=True):
        verdicts.append(claims.near_value(mb / 1000, bar))
    sizes = ", ".join(name.split()[1] for name in LLAMAS)
    worst = max(verdicts, key=list(claims.VALUES).index)
    statement = f"LLaMA {sizes} in all: {', '.join(printed)} GB"
    evidence = f"{', '.join(ours)} GB; adapters as printed with 18 h"
    result = [Claim("QLoRA Figure 6", statement, evidence, worst)]
    return result + claims_on_65b(metrics[LARGEST])


def claims_on_65b(metrics: dict[str, float]) -> list[Claim]:
    published = paper.claims().published_value
    full_claim = float(published["Q1"])
    qlora_claim = float(published["Q2"].strip("< "))
    full = metrics["full/total"] / 1e9
    qlora = (metrics["ours/total"] + metrics["sequence/inputs_of_blocks"]) / 1e9
    return [
        Claim(
            "QLoRA section 1",
            f"memory, 65B, 16-bit fine-tuning: > {full_claim:g} GB (Q1)",
            f"{full:.1f} GB at 12 bytes each",
            claims.FITTED if full > full_claim else claims.UNEXPLAINED,
        ),
        Claim(
            "QLoRA section 1",
            f"memory, 65B, QLoRA: < {qlora_claim:g} GB (Q2)",
            f"{qlora:.1f} GB, inputs of blocks included",
            claims.EQUAL if qlora < qlora_claim else claims.UNEXPLAINED,
        ),
    ]


EXPERIMENT = Experiment(
    "qlora_memory", PRESETS, measurements, show, description=__doc__
)

if __name__ == "__main__":
    EXPERIMENT.script()
