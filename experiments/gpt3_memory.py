"""LoRA section 4.2: what does training GPT-3 175B store, with and without LoRA?

The paper (Hu et al. 2021, arXiv 2106.09685v2) says 1.2 TB for full fine-tuning and 350
GB for LoRA, but not how it comes to these numbers. Here is what training with Adam
stores in each precision; LoRA has r = 4 on query and value, and "bytes each" are the
bytes of a trainable parameter. Activations are left out. A claim is *fitted* if it is as
printed by a precision that was chosen for it; no precision gives all of the claims.

    python experiments/gpt3_memory.py
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

from lora_jax import accounting, results
from lora_jax.accounting.optimizer_states import (
    HALF,
    MIXED,
    PRECISIONS,
    compare_with_lora,
)
from lora_jax.experiment import Experiment, Measurement
from lora_jax.results import Comparison, Report, Section
from lora_jax.results.pages import gpt3_memory as page
from lora_jax.results.pages.needs import gpt3_memory as needs

GPT3 = "gpt3-175b"
ADAPTER = {"targets": "query,value", "rank": 4}  # section 4.2's example


@dataclass(frozen=True)
class Options:
    architectures: tuple[str, ...] = tuple(accounting.ARCHITECTURES)
    """Architectures whose bytes are counted, GPT-3 in every precision."""


# Counting takes no time: all presets are alike.
PRESETS = {name: (Options(), None) for name in ("smoke", "quick", "full")}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    items = []
    for name in options.architectures:
        accounting.find_architecture(name)  # complains about an unknown name
        # The paper does not say GPT-3's precision; the others have the usual one.
        precisions = PRECISIONS if name == GPT3 else [MIXED.name]
        for precision in precisions:
            settings = {"architecture": name, **ADAPTER, "precision": precision}
            items.append(Measurement((), settings, measure))
    return items


def measure(_trained, settings):
    for setting in settings:
        yield {"metrics": compare_with_lora(**setting)}  # bytes


def show(rows: list) -> Report:
    by_precision = page.stored_bytes(rows, "precision", architecture=GPT3)
    by_architecture = page.stored_bytes(rows, "architecture", precision=MIXED.name)
    bytes_each = {name: item.trainable for name, item in PRECISIONS.items()}
    # GPT-3 in each precision, and each architecture in the usual one.
    precisions = page.precision_table(by_precision, bytes_each)
    sizes = page.size_table(by_architecture, list(accounting.ARCHITECTURES))
    verdicts = page.verdict_table(by_precision, usual=HALF.name)
    sections = [
        Section("GPT-3 175B", [results.table(precisions, digits=2)]),
        Section("The paper's numbers", [verdicts, page.EXPLANATION]),
    ]
    # Somebody may have counted GPT-3 in one other precision alone.
    if not sizes.empty:
        text = results.table(sizes, digits=3)
        sections.append(Section(f"Every architecture, {MIXED.name}", [text]))
    return Report(
        title="Memory of training GPT-3",
        intro=__doc__,
        sections=sections,
        claims=page.memory_claims(verdicts),
        data=None if sizes.empty else sizes,
        comparison=Comparison(by=("model",), value="full, GB", error=""),
    )


EXPERIMENT = Experiment(
    "gpt3_memory", PRESETS, measurements, show, __doc__, needs=needs
)

if __name__ == "__main__":
    EXPERIMENT.script()
