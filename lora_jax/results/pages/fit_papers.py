"""Compiled steps beside the papers: QLoRA's Figure 6 and "65B in 48 GB", LoRA's GPT-3."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lora_jax import paper
from lora_jax.paper.qlora import MB, figure6
from lora_jax.plural import counted
from lora_jax.results import claims
from lora_jax.results.claims import Claim
from lora_jax.results.pages.fit_names import (
    FLOAT32,
    GB,
    PARTS,
    adapter_dtype,
    label,
    scaled,
)
from lora_jax.results.rows import Row
from lora_jax.results.stacked_bars import Bar, Panel, stacked

LABEL_GB = 1000 * MB  # bytes of a GB of the labels of QLoRA's Figure 6
GIB = 2**30  # bytes
BFLOAT16 = "bfloat16"  # the paper's adapters
TERA = 10**12
# Our names of the models of the figure.
FIGURE6 = {
    "llama-7b": "LLaMA 7B",
    "llama-13b": "LLaMA 13B",
    "llama-33b": "LLaMA 33B",
    "llama-65b": "LLaMA 65B",
}
GPT3 = "gpt3-175b"
FIGURE6_TEXT = """
QLoRA's Figure 6 has r = 64 on all matrices, one row of 512 tokens and checkpointing. Both
are in GB of 1,000 x 2^20 bytes here, as the figure's labels; *bar* is the label, and
*total* the arguments and temporaries of the compiled step. The paper's adapters and
their gradients are in bfloat16, and Adam's moments in float32, as a step is here with
`--adapter-dtype bfloat16`. By default adapters are in float32: *stored as* says which.
"""


def figure6_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Return a line for each row with the settings of the figure, in GB of its labels."""
    bars = figure6()
    lines = []
    for row in _figure6_rows(rows):
        config, metrics = row["config"], row["metrics"]
        name = FIGURE6[config["model"]]
        line: dict[str, Any] = {"model": name, "machine": config["machine"]}
        line["stored as"] = adapter_dtype(config)
        line["bar"] = bars[name, "total"] / 1000
        for part, metric in {**PARTS, "total": "bytes/total"}.items():
            line[part] = scaled(metrics, metric, LABEL_GB)
        line["within"] = "yes" if line["total"] <= line["bar"] else "no"
        lines.append(line)
    return pd.DataFrame(lines)


def is_beyond(row: Row) -> bool:
    """Return whether a step of the figure takes more than the figure has for it."""
    if not _is_figure6(row["config"]):
        return False
    bar = figure6()[FIGURE6[row["config"]["model"]], "total"]
    return scaled(row["metrics"], "bytes/total", MB) > bar


def memory_claims(rows: Iterable[Row]) -> list[Claim]:
    """Return the verdicts on what the papers say of memory."""
    result = []
    for totals in _figure6_totals(rows):
        result += _figure6_claims(*totals)
    for row in rows:
        if row["config"]["model"] == GPT3:
            result += _gpt3_claims(row)
    return result


def _figure6_totals(rows: Iterable[Row]) -> list[tuple[str, dict[str, float]]]:
    """The bytes of each step of the figure on an H100, by the dtype of its adapters."""
    by_step: dict[str, tuple[str, dict[str, float]]] = {}
    for row in _figure6_rows(rows):
        config, metrics = row["config"], row["metrics"]
        # Of a step that the compiler refuses the total may be unknown.
        if config["machine"] != "h100" or "bytes/total" not in metrics:
            continue
        # All settings but the dtype.
        others = [config[name] for name in sorted(config) if name != "adapter_dtype"]
        _, totals = by_step.setdefault(str(others), (config["model"], {}))
        totals[adapter_dtype(config)] = metrics["bytes/total"]
    return list(by_step.values())


def _figure6_claims(model: str, totals: Mapping[str, float]) -> list[Claim]:
    """The claims on a step; the verdict is of the paper's adapters, if they are there."""
    published = paper.claims().published_value
    name = FIGURE6[model]
    total = totals.get(BFLOAT16, totals.get(FLOAT32, 0))
    bar = figure6()[name, "total"] / 1000
    statement = f"{name} in all: {bar:.1f} GB or less"
    verdict = claims.EQUAL if total <= bar * LABEL_GB else claims.UNEXPLAINED
    evidence = _total_text(totals, LABEL_GB, "GB")
    result = [Claim("QLoRA Figure 6", statement, evidence, verdict)]
    if name == "LLaMA 65B":
        bound = float(published["Q2"].strip("< "))
        # A card of 48 GB has 48 x 2^30 bytes.
        verdict = claims.EQUAL if total < bound * GIB else claims.UNEXPLAINED
        statement = f"memory, 65B, QLoRA: < {bound:g} GB (Q2)"
        evidence = _total_text(totals, GIB, "GiB")
        result.append(Claim("QLoRA section 1", statement, evidence, verdict))
    return result


def _total_text(totals: Mapping[str, float], unit: float, name: str) -> str:
    """The bytes of a step with the paper's adapters first."""
    parts = []
    for dtype in (BFLOAT16, FLOAT32):
        if dtype in totals:
            parts.append(f"{totals[dtype] / unit:.1f} {name} with {dtype} adapters")
    return f"{', '.join(parts)}; compiled for one H100"


def _gpt3_claims(row: Row) -> list[Claim]:
    """LoRA section 4.2: 1.2 TB by full fine-tuning, 350 GB by LoRA."""
    config, metrics = row["config"], row["metrics"]
    published = paper.claims().published_value
    # What is stored from one step to the next, on all devices.
    parts = ("bytes/base", "bytes/adapters", "bytes/optimizer")
    stored = metrics["step/devices"] * sum(metrics[part] for part in parts)
    where = counted(int(metrics["step/devices"]), "device")
    claim, unit, size = (
        ("L4", "GB", GB) if config["method"] == "lora" else ("L3", "TB", TERA)
    )
    printed = f"{float(published[claim]):g}"
    statement = f"memory, {label(config)}: {printed} {unit} ({claim})"
    moments = metrics["step/devices"] * metrics["bytes/optimizer"]
    evidence = (
        f"{stored / size:.4g} {unit} on {where}, each with embeddings; "
        f"{moments / size:.3g} of it are moments"
    )
    verdict = claims.near_value(stored / size, printed)
    return [Claim("LoRA section 4.2", statement, evidence, verdict)]


def figure(rows: Iterable[Row]) -> Figure | None:
    """Draw the parts of the steps of Figure 6, with the paper's labels beneath.

    Without any there is no picture.
    """
    bars = []
    lines = figure6_table(rows)
    for line in lines.to_dict("records"):
        # A compiler that refuses a step says nothing of its parts.
        if line["total"] != line["total"]:
            continue
        parts = {part: line[part] for part in PARTS if line[part] == line[part]}
        name = f"{line['model']}, {line['machine']}"
        if line["stored as"] != FLOAT32:
            name += f", {line['stored as']}"
        bars.append(Bar(name, parts, line["bar"]))
    if not bars:
        return None
    panel = Panel("QLoRA, one row of 512 tokens", bars)
    return stacked([[panel]], xlabel="GB of 1,000 x 2^20 bytes", total_label="label")


def _figure6_rows(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if _is_figure6(row["config"])]


def _is_figure6(config: Mapping[str, Any]) -> bool:
    is_step = (config["batch"], config["length"], config["rank"]) == (1, 512, 64)
    is_quantized = config["quantize"] == "nf4_double"
    return is_step and is_quantized and config["model"] in FIGURE6
