"""QLoRA's Figure 6: where the bytes of a training step go for LLaMA, by formula, beside the published bars.

Dettmers et al. 2023 (arXiv 2305.14314v1), pages 4 and 26. Letters: L layers, h width, f feed-forward, r rank, T tokens; S is the
sum of inputs and outputs over the matrices of a block. The paper's MB are 2^20 bytes, for its adapters are such to the digit.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from lora_jax import paper, quant
from lora_jax.accounting.optimizer_states import PRECISIONS, judged, states
from lora_jax.results.claims import VALUES, Verdict
from lora_jax.results.report import markdown
from lora_jax.results.stacked_bars import Bar, Panel, stacked

MB, VOCABULARY = 2**20, 32_000


class Llama(NamedTuple):
    """The sizes of a LLaMA: no biases, RMSNorms, and a head of its own."""

    layers: int
    width: int
    ffn: int

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a block's query, key, value, output; gate, up, down."""
        h, f = self.width, self.ffn
        return [(h, h)] * 4 + [(h, f), (h, f), (f, h)]

    @property
    def sides(self) -> int:
        """S: 11 h + 3 f."""
        return sum(map(sum, self.matrices))

    @property
    def body(self) -> int:
        """Parameters of all blocks' matrices."""
        return self.layers * sum(i * o for i, o in self.matrices)

    @property
    def rest(self) -> int:
        """Parameters of embedding, head and norms."""
        return (2 * VOCABULARY + 2 * self.layers + 1) * self.width


LLAMA = {
    "LLaMA 7B": Llama(32, 4096, 11008),
    "LLaMA 13B": Llama(40, 5120, 13824),
    "LLaMA 33B": Llama(60, 6656, 17920),
    "LLaMA 65B": Llama(80, 8192, 22016),
}
CELLS = [{"base": name, "rank": 64, "block": 64, "tokens": 512} for name in LLAMA]
"""The figure's settings: r = 64 on every matrix of the blocks, one sequence of 512 tokens, gradient checkpointing."""
PARTS = (
    "model",
    "adapters",
    "weight gradient",
    "optimizer",
    "input gradient",
)  # as the figure has them


def quantized(numbers: int, block: int, *, double: bool) -> int:
    """Bytes of a matrix of so many numbers in 4 bits: codes and FP32 scales, or 8-bit scales with theirs and a mean."""
    blocks = -(-numbers // block)
    scales = blocks + 4 * -(-blocks // quant.NESTED) + 4 if double else 4 * blocks
    return -(-numbers // 2) + scales


def step(base: str, rank: int, block: int, tokens: int) -> dict[str, int]:
    """Bytes of a QLoRA step by part, "ours/model" and so on; "fitted/model": by what comes nearest to the bars.

    Also of full fine-tuning in 16 bits, "full/total", and what checkpointing keeps, "sequence/inputs_of_blocks".
    """
    sizes, metrics = LLAMA[base], {}
    for way, double, sides in (
        ("ours", True, sizes.sides),
        ("fitted", False, 18 * sizes.width),
    ):
        block_bytes = sum(
            quantized(i * o, block, double=double) for i, o in sizes.matrices
        )
        adapters = 2 * sizes.layers * rank * sides
        model = sizes.layers * block_bytes + 2 * sizes.rest
        parts = dict(
            zip(
                PARTS,
                (model, adapters, adapters, 4 * adapters, 2 * tokens * sides),
                strict=True,
            )
        )
        metrics |= {
            f"{way}/{part}": size
            for part, size in {**parts, "total": sum(parts.values())}.items()
        }
    every = sizes.body + sizes.rest
    full = states(every, every, PRECISIONS["FP16, moments FP32"]).total
    kept = 2 * sizes.layers * tokens * sizes.width
    return metrics | {
        "full/parameters": every,
        "full/total": full,
        "sequence/inputs_of_blocks": kept,
    }


def _found(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each model's metrics; none while one is missing."""
    found = {
        row["config"]["base"]: row["metrics"] for row in rows if row["config"] in CELLS
    }
    return {name: found[name] for name in LLAMA} if len(found) == len(LLAMA) else {}


def _published() -> dict[tuple[str, str], float]:
    """The figure's MB by model and part; of "total" a thousand for each GB of the label."""
    lines = paper.table("qlora_fig6_memory_breakdown").to_dict("records")
    return {
        (at["model"], at["component"]): at["value"]
        * (1000 if at["unit"] == "GB" else 1)
        for at in lines
    }


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A line for each model and part, in MB; empty while a row is missing."""
    printed, lines = _published(), []
    for name, at in _found(rows).items():
        for part in (*PARTS, "total"):
            said, line = (
                printed[name, part],
                {"model": name, "part": part, "paper": printed[name, part]},
            )
            for way, shown in (("ours", "difference, %"), ("fitted", "of fitted, %")):
                mb = at[f"{way}/{part}"] / MB
                line |= {way: mb, shown: 100 * (mb / said - 1)}
            lines.append(line)
    return pd.DataFrame(lines)


def section(rows: Sequence[dict[str, Any]], picture: str) -> list[str]:
    """The figure beside ours, and what explains the differences; nothing while a row is missing."""
    if not (found := _found(rows)):
        return []
    lines = table(rows)
    at, printed = lines.set_index(["part", "model"]).to_dict(), _published()
    total = sum(printed["LLaMA 65B", part] for part in PARTS)

    def each(numbers: Iterable[float]) -> str:
        *first, last = (f"{number:,.0f}" for number in numbers)
        return f"{', '.join(first)} and {last}"

    def left(part: str) -> str:
        return each(
            at["paper"][part, name] - at["fitted"][part, name] for name in LLAMA
        )

    known = FOUND.format(
        far=each(-at["difference, %"]["model", name] for name in LLAMA),
        bits=growth(MB),
        other=growth(10**6),
        left=left("model"),
        gradient=each(at["fitted"]["input gradient", name] for name in LLAMA),
        away=left("input gradient"),
        kept=each(
            metrics["sequence/inputs_of_blocks"] / MB for metrics in found.values()
        ),
        label=printed["LLaMA 65B", "total"] / 1000,
        total=total / 1000,
        bytes=total * MB / 1e9,
    )
    shown = markdown(lines, digits=dict.fromkeys(lines.columns[2:], 1))
    return [ASSUMED, shown, f"![Figure 6]({picture})\n", known]


def growth(mb: int) -> float:
    """Bits by which the published model bars, of so many bytes an MB, grow for each parameter of the blocks, from 7B to 65B."""
    printed, (small, *_, large) = _published(), LLAMA
    grown = [
        mb * printed[name, "model"] - 2 * LLAMA[name].rest for name in (small, large)
    ]
    return 8 * (grown[1] - grown[0]) / (LLAMA[large].body - LLAMA[small].body)


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
FOUND = """- **Adapters and optimiser** are as printed, to the digit, with S = 18 h: 8 h for attention, 10 h for an MLP of two
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
    """Stacked bars, the paper's with its label beneath, two models in a column on one scale; None while a row is missing."""
    panels = []
    for name, lines in table(rows).groupby("model", sort=False) if _found(rows) else ():
        at = lines.set_index("part").to_dict()
        bars = [
            Bar(way, {part.removeprefix("weight "): at[way][part] for part in PARTS})
            for way in ("paper", "ours", "fitted")
        ]
        panels.append(
            Panel(str(name), [bars[0]._replace(whole=at["paper"]["total"]), *bars[1:]])
        )
    return (
        stacked([panels[::2], panels[1::2]], xlabel="MB of 2^20 bytes", whole="label")
        if panels
        else None
    )


def verdicts(rows: Sequence[dict[str, Any]]) -> list[Verdict]:
    """Figure 6 by its totals, and the claim on 65B; nothing while a row is missing."""
    if not (found := _found(rows)):
        return []
    claims, totals = (
        paper.claims().published_value,
        table(rows).query("part == 'total'"),
    )
    printed = [f"{mb / 1000:.1f}" for mb in totals["paper"]]
    reached = [
        judged(mb / 1000, said)
        for mb, said in zip(totals["ours"], printed, strict=True)
    ]
    names = ", ".join(name.split()[1] for name in LLAMA)
    ours = ", ".join(f"{mb / 1000:.1f}" for mb in totals["ours"])
    at = found["LLaMA 65B"]
    full, small = (
        at["full/total"] / 1e9,
        (at["ours/total"] + at["sequence/inputs_of_blocks"]) / 1e9,
    )
    most, least = float(claims["Q1"]), float(claims["Q2"].strip("< "))
    return [
        Verdict(
            "QLoRA Figure 6",
            f"LLaMA {names} in all: {', '.join(printed)} GB",
            f"{ours} GB; adapters as printed with 18 h",
            max(reached, key=list(VALUES).index),
        ),
        Verdict(
            "QLoRA section 1",
            f"memory, 65B, 16-bit fine-tuning: > {most:g} GB (Q1)",
            f"{full:.1f} GB at 12 bytes each",
            "fitted" if full > most else "unexplained",
        ),
        Verdict(
            "QLoRA section 1",
            f"memory, 65B, QLoRA: < {least:g} GB (Q2)",
            f"{small:.1f} GB, inputs of blocks included",
            "equal" if small < least else "unexplained",
        ),
    ]
