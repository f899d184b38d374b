"""QLoRA Figure 6: where do the bytes of a training step of LLaMA go?

QLoRA trains with r = 64 on all matrices of the blocks, on one sequence of 512 tokens
with gradient checkpointing (Dettmers et al. 2023, arXiv 2305.14314v1, pages 4 and 26).
The formulas are those of `lora_jax.accounting.llama_memory`. An MB is 2^20 bytes here,
as in the paper. Let L be the layers, h the width, f the feed-forward width and T the
tokens. S is the sum of inputs and outputs over the matrices of a block: 11 h + 3 f for
query, key, value, output, gate, up and down.

- *model* is these matrices in NF4 with block 64 and double quantization (4.127 bits),
  and embedding, head and norms in 16 bits.
- *adapters* are 2 r L S bytes, in 16 bits. *weight gradient* is the same. *optimizer*,
  Adam's two moments in FP32, is 4 times that.
- *input gradient* is that of all these inputs and outputs, in 16 bits. It is 2 T S
  bytes, since checkpointing has the gradients of one block at a time.
- *fitted* is what comes nearest: S = 18 h, and no double quantization (4.5 bits).

The paper's input gradients are read off the bars, to 25 MB (7B) up to 140 MB (65B). Its
weight gradients are not printed; their bars are as high as the adapters'. In the
picture *label* is the total that the paper prints, in GB, times a thousand.

    python experiments/qlora_memory.py
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

from lora_jax import results
from lora_jax.accounting.llama_memory import LLAMAS, bits_by_growth, step_bytes
from lora_jax.experiment import Experiment, Measurement
from lora_jax.paper.qlora import MB, figure6
from lora_jax.results import Comparison, Report, Section
from lora_jax.results.pages import qlora_memory as page
from lora_jax.results.pages.needs import qlora_memory as needs

# The settings of the figure; adapters are on every matrix of the blocks.
FIGURE6 = {"rank": 64, "block": 64, "tokens": 512}


@dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = tuple(LLAMAS)
    """Sizes of LLaMA."""


# Counting takes no time: all presets are alike.
PRESETS = {name: (Options(), None) for name in ("smoke", "quick", "full")}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    unknown = [name for name in options.models if name not in LLAMAS]
    if unknown:
        raise ValueError(
            f"models: expected some of {', '.join(LLAMAS)}, got {', '.join(unknown)}"
        )
    items = []
    # In the paper's order, whatever the order of the flag.
    for name in LLAMAS:
        if name in options.models:
            items.append(Measurement((), {"base": name, **FIGURE6}, measure))
    return items


def measure(_trained, settings):
    for setting in settings:
        yield {"metrics": step_bytes(**setting)}  # of both accounts


def show(rows: list) -> Report:
    metrics = page.metrics_by_model(rows)
    table = page.bar_table(metrics)
    # Whole MB would hide the smallest parts.
    digits = dict.fromkeys(table.columns[2:], 1)
    blocks = [results.table(table, digits=digits)]
    # The text is on all four models.
    if page.is_complete(metrics):
        bits = growth(MB)
        decimal_bits = growth(10**6)
        text = page.explanation(metrics, table, bits=bits, decimal_bits=decimal_bits)
        blocks.append(text)
    return Report(
        title="Memory of a QLoRA step",
        intro=__doc__,
        sections=[Section("The paper's bars and ours, in MB", blocks)],
        claims=page.figure6_claims(metrics, table),
        data=table,
        figures={"": page.figure(table)},
        comparison=Comparison(by=("model", "part"), value="ours", error=""),
    )


def growth(mb: int) -> float:
    """Bits by which the published bars of the models grow, with `mb` bytes an MB."""
    bars = figure6()
    # From 7B to 65B. These bars are printed to the MB.
    small, *_, large = LLAMAS
    return bits_by_growth(
        LLAMAS[small],
        LLAMAS[large],
        small_bytes=mb * bars[small, "model"],
        large_bytes=mb * bars[large, "model"],
    )


EXPERIMENT = Experiment(
    "qlora_memory", PRESETS, measurements, show, __doc__, needs=needs
)

if __name__ == "__main__":
    EXPERIMENT.script()
