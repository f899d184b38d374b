"""LoRA section 4.2: what does training GPT-3 175B store, with and without LoRA?

The paper (Hu et al. 2021, arXiv 2106.09685v2) says 1.2 TB for full fine-tuning and 350
GB for LoRA, and not how it comes to them. Here is what training with Adam stores, LoRA
being r = 4 on query and value, in each precision; "bytes each" are those of a trainable
parameter. Activations are left out. A claim is *fitted* if it is as printed by a
precision that was chosen for it; no precision gives all.

    python experiments/gpt3_memory.py
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import pandas as pd

from lora_jax import accounting, paper, results
from lora_jax.accounting.optimizer_states import (
    HALF,
    MIXED,
    PRECISIONS,
    compare_with_lora,
)
from lora_jax.experiment import Experiment, Measurement
from lora_jax.results import Claim, Comparison, Report, Section, claims

SOURCE = "LoRA section 4.2"
GPT3 = "gpt3-175b"
ADAPTER = {"targets": "query,value", "rank": 4}  # section 4.2's example


class Quantity(NamedTuple):
    """What a claim is about, and how it follows from `compare_with_lora`."""

    title: str
    unit: str
    compute: Callable[[Mapping[str, float]], float]


def full_over_lora(part: str) -> Callable[[Mapping[str, float]], float]:
    return lambda stored: stored[f"full/{part}"] / stored[f"lora/{part}"]


def amount(name: str, unit: float) -> Callable[[Mapping[str, float]], float]:
    return lambda stored: stored[name] / unit


def share_saved(stored: Mapping[str, float]) -> float:
    return 1 - stored["lora/total"] / stored["full/total"]


def hundred_models(stored: Mapping[str, float]) -> float:
    return (stored["full/checkpoint"] + 100 * stored["lora/checkpoint"]) / 1e9


QUANTITIES = {
    "L3": Quantity("memory, full fine-tuning", "TB", amount("full/total", 1e12)),
    "L2": Quantity("memory, full / LoRA", "x", full_over_lora("total")),
    "L15": Quantity("memory saved, up to", "", share_saved),
    "L4": Quantity("memory, LoRA", "GB", amount("lora/total", 1e9)),
    "L5": Quantity("checkpoint, full", "GB", amount("full/checkpoint", 1e9)),
    "L6": Quantity("checkpoint, LoRA", "MB", amount("lora/checkpoint", 1e6)),
    "L7": Quantity("checkpoint, full / LoRA", "x", full_over_lora("checkpoint")),
    "L8": Quantity("100 adapted models", "GB", hundred_models),
}
# These depend on the precision, which the paper does not say.
DEPENDENT = ("L2", "L3", "L15")
EXPLANATION = """1.2 TB are 6.9 bytes a parameter, between two precisions: six bytes, for
weights and moments in FP16, are 1.05 TB and give the 3 x and the 2/3; eight, with the
gradient, are 1.40 TB or 1.27 TiB, and 4 x. The 350 GB are the frozen weights in FP16.
LoRA's checkpoint of 18,874,368 numbers is 37.7 MB or 36.0 MiB."""


@dataclass(frozen=True)
class Options:
    architectures: tuple[str, ...] = tuple(accounting.ARCHITECTURES)
    """Architectures whose bytes are counted, GPT-3 in every precision."""


PRESETS = {name: (Options(), None) for name in ("smoke", "quick", "full")}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    items = []
    for name in options.architectures:
        accounting.find_architecture(name)  # complains about an unknown name
        precisions = PRECISIONS if name == GPT3 else [MIXED.name]
        for precision in precisions:
            settings = {"architecture": name, **ADAPTER, "precision": precision}
            items.append(Measurement((), settings, measure))
    return items


def measure(_trained, settings):
    for setting in settings:
        yield {"metrics": compare_with_lora(**setting)}


def show(rows: list) -> Report:
    by_precision = stored(rows, "precision", architecture=GPT3)
    by_architecture = stored(rows, "architecture", precision=MIXED.name)
    judged = section_4_2(by_precision)
    sizes = size_table(by_architecture)
    sections = [
        Section("GPT-3 175B", [results.table(precision_table(by_precision), digits=2)]),
        Section("The paper's numbers", [pd.DataFrame(judged), EXPLANATION]),
    ]
    if not sizes.empty:
        text = results.table(sizes, digits=3)
        sections.append(Section(f"Every architecture, {MIXED.name}", [text]))
    return Report(
        title="Memory of training GPT-3",
        intro=__doc__,
        sections=sections,
        claims=[claim_of(line) for line in judged],
        data=None if sizes.empty else sizes,
        comparison=Comparison(by=("model",), value="full, GB", error=""),
    )


def stored(rows: list, by: str, **only: str) -> dict[str, Any]:
    """The metrics of the rows with these settings, by another setting."""
    metrics = {}
    for row in rows:
        if only.items() <= row["config"].items():
            metrics[row["config"][by]] = row["metrics"]
    return metrics


def precision_table(by_precision: Mapping[str, Any]) -> pd.DataFrame:
    lines = []
    for name, precision in PRECISIONS.items():
        if name in by_precision:
            metrics = by_precision[name]
            lines.append(
                {
                    "precision": name,
                    "bytes each": precision.trainable,
                    "full, TB": metrics["full/total"] / 1e12,
                    "full, TiB": metrics["full/total"] / 2**40,
                    "LoRA, GB": metrics["lora/total"] / 1e9,
                    "full / LoRA": metrics["full/total"] / metrics["lora/total"],
                }
            )
    return pd.DataFrame(lines)


def size_table(by_architecture: Mapping[str, Any]) -> pd.DataFrame:
    lines = []
    for name, metrics in by_architecture.items():
        lines.append(
            {
                "model": name,
                "parameters": int(metrics["full/parameters"]),
                "LoRA's": int(metrics["lora/parameters"]),
                "full, GB": metrics["full/total"] / 1e9,
                "LoRA, GB": metrics["lora/total"] / 1e9,
                "full / LoRA": metrics["full/total"] / metrics["lora/total"],
                "checkpoint, full, MB": metrics["full/checkpoint"] / 1e6,
                "checkpoint, LoRA, MB": metrics["lora/checkpoint"] / 1e6,
            }
        )
    if not lines:
        return pd.DataFrame()
    return results.in_order(
        pd.DataFrame(lines), "model", list(accounting.ARCHITECTURES)
    )


def section_4_2(by_precision: Mapping[str, Any]) -> list[dict[str, str]]:
    """The paper's numbers beside ours, in FP16, or the nearest where it matters."""
    if HALF.name not in by_precision:
        return []
    published = paper.claims().published_value
    lines = []
    for claim, quantity in QUANTITIES.items():
        value = published[claim]
        is_fraction = isinstance(value, str)  # such as `2/3`
        printed = f"{float(Fraction(value)):.2f}" if is_fraction else f"{value:g}"
        names = list(by_precision) if claim in DEPENDENT else [HALF.name]
        values = {name: quantity.compute(by_precision[name]) for name in names}
        distances = {name: abs(values[name] - float(printed)) for name in names}
        nearest = min(distances, key=distances.__getitem__)
        verdict = claims.near_value(values[nearest], printed)
        if claim in DEPENDENT and verdict == claims.EQUAL:
            verdict = claims.FITTED
        line = {"claim": claim, "what": quantity.title}
        line["paper"] = f"{printed} {quantity.unit}".strip()
        line["ours"] = f"{values[nearest]:.4g} {quantity.unit}".strip()
        lines.append({**line, "precision": nearest, "verdict": verdict})
    return lines


def claim_of(line: Mapping[str, str]) -> Claim:
    statement = f"{line['what']}: {line['paper']} ({line['claim']})"
    return Claim(SOURCE, statement, line["ours"], line["verdict"])


EXPERIMENT = Experiment("gpt3_memory", PRESETS, measurements, show, description=__doc__)

if __name__ == "__main__":
    EXPERIMENT.script()
