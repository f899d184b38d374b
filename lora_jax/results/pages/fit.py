"""The page on steps that fit a machine: its tables, and what is largest.

Rows have the settings of `accounting.fitted_step.FittedStep` and what `step_cost`
returns. Sizes are in GB of 10^9 bytes of one device. What stands beside the papers is in
`fit_papers.py`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from lora_jax.results.agreement import Comparison
from lora_jax.results.pages import fit_papers
from lora_jax.results.pages.fit_names import GB, PARTS, SETTINGS, names, scaled
from lora_jax.results.report import Report, Section
from lora_jax.results.rows import Row
from lora_jax.results.tables import table

TERA = 10**12
MILLI = 1000
# Another version of a compiler lays buffers out in another way.
COMPARISON = Comparison(by=SETTINGS, value="total", error="", relative=0.1)

COLUMNS = """
All sizes are in GB of 10^9 bytes, and of one device.

- *stored* is the format of the base, or its dtype where it is not quantized.
- *base* are the frozen weights, *adapters* all that is trained, *optimizer* Adam's two
  moments. *temporary* is what else the compiled step needs at its fullest moment:
  gradients, activations, weights that are dequantized or gathered. *total* is the sum,
  with the batch.
- *memory* is what a program can have on the device. A compiler may refuse a step that
  needs more; it then says how much that would be, or nothing.
- *TFLOP* are the operations of the matrix products, a device's share. Of attention they
  are those of all tokens by all tokens; a kernel may leave out the half that a causal
  mask hides, up to 5 % of a step here. *moved, GB* are the bytes that the compiled step
  reads and writes in the device's memory, with each pass of a loop; what a kernel reads
  again from its cache is not counted.
- *floor, ms* is what the step takes **at least**: the larger of operations by the
  device's published peak and bytes by its published bandwidth. Neither is reached in
  practice, and messages between devices come on top. A processor has no published peak.
"""
MESSAGES = """
Messages between devices, by kind: how many a step has, and the bytes of what one device
holds before or after them, whichever is more. They are not part of the floor.
"""
LARGEST_TEXT = (
    "The largest results in steps that need more than there is, or than the figure has:"
)


def report(rows: Iterable[Row], intro: str | None) -> Report:
    """Return the page of the rows."""
    rows = ordered(rows)
    single = [row for row in rows if row["metrics"]["step/devices"] == 1]
    many = [row for row in rows if row["metrics"]["step/devices"] > 1]
    sections = [Section("The columns", [COLUMNS])]
    if single:
        sections.append(Section("One device", [step_text(step_table(single))]))
    if many:
        blocks = [step_text(step_table(many)), MESSAGES, message_text(many)]
        sections.append(Section("Many devices, of each", blocks))
    bars = fit_papers.figure6_table(rows)
    if not bars.empty:
        blocks = [fit_papers.FIGURE6_TEXT, table(bars, digits=2)]
        sections.append(Section("Beside QLoRA's Figure 6", blocks))
    missing = largest_lines(rows)
    if missing:
        blocks = [LARGEST_TEXT, "\n".join(missing)]
        sections.append(Section("What does not fit, or is beyond the figure", blocks))
    sections.append(Section("Compilers and peaks", ["\n".join(compiler_lines(rows))]))
    drawing = fit_papers.figure(rows)
    return Report(
        title="Does a step fit",
        intro=intro,
        sections=sections,
        claims=fit_papers.memory_claims(rows),
        data=step_table(rows),
        figures={} if drawing is None else {"": drawing},
        comparison=COMPARISON,
    )


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Return the rows by the number of devices, then machine, then size of the base."""
    return sorted(rows, key=_place)


def _place(row: Row) -> tuple:
    config, metrics = row["config"], row["metrics"]
    values = [str(value) for value in config.values()]
    return (metrics["step/devices"], config["machine"], metrics["bytes/base"], values)


def step_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Return a line for each step; what its compiler did not say is missing."""
    lines = []
    for row in rows:
        metrics = row["metrics"]
        line: dict[str, Any] = dict(zip(SETTINGS, names(row), strict=True))
        for part, name in PARTS.items():
            line[part] = scaled(metrics, name, GB)
        line["total"] = scaled(metrics, "bytes/total", GB)
        line["memory"] = metrics["bytes/device"] / GB
        line["fits"] = "yes" if metrics["step/fits"] else "no"
        line["TFLOP"] = metrics["step/operations"] / TERA
        line["moved, GB"] = scaled(metrics, "step/accessed", GB)
        line["floor, ms"] = scaled(metrics, "floor/seconds", 1 / MILLI)
        line["bound by"] = _bound(metrics)
        lines.append(line)
    return pd.DataFrame(lines)


def _bound(metrics: Mapping[str, float]) -> str:
    """What makes the floor: `products` or `memory`; nothing where there is none."""
    if "floor/seconds" not in metrics:
        return ""
    is_products = metrics["floor/products"] >= metrics["floor/memory"]
    return "products" if is_products else "memory"


def step_text(steps: pd.DataFrame) -> str:
    """Return the lines of `step_table` as text."""
    digits = dict.fromkeys([*PARTS, "total", "memory", "TFLOP"], 2)
    digits |= {"moved, GB": 0, "floor, ms": 1}
    return table(steps, digits=digits)


def compiler_lines(rows: Iterable[Row]) -> list[str]:
    """Return the compiler of each machine, and where its peaks are published."""
    lines: dict[str, None] = {}  # each once, in order
    for row in rows:
        machine = row["config"]["machine"]
        jax = row["provenance"]["versions"]["jax"]
        line = f"- {machine}: jax {jax}, {row['compiler']}"
        lines[f"{line}; {row['source']}" if row["source"] else line] = None
    return list(lines)


def message_text(rows: Iterable[Row]) -> str:
    """Return a line for each step and kind of message between devices, as text."""
    lines = []
    for row in rows:
        settings = dict(zip(SETTINGS, names(row), strict=True))
        for kind, cost in row["collectives"].items():
            line = {
                "model": settings["model"],
                "method": settings["method"],
                "machine": settings["machine"],
                "kind": kind,
                "in a step": cost["count"],
                "GB a device": cost["bytes"] / GB,
            }
            lines.append(line)
    if not lines:
        return "None of the compiled steps sends any, or none was compiled."
    return table(pd.DataFrame(lines), digits={"GB a device": 2})


def largest_lines(rows: Iterable[Row]) -> list[str]:
    """Return what is largest in the steps that do not fit, or that miss their bar."""
    lines = []
    for row in rows:
        if row["metrics"]["step/fits"] and not fit_papers.is_beyond(row):
            continue
        model, method, base, shape, _, machine = names(row)
        words = [_result_text(result) for result in row["largest"]]
        reason = "; ".join(words) or row.get("refused", "")
        lines.append(f"- {model}, {method}, {base}, {shape}, on {machine}: {reason}")
    return lines


def _result_text(result: Mapping[str, Any]) -> str:
    # `jit(train_step)/jvp()/while/body/dot_general` ends with what it is.
    operation = str(result["operation"]).rpartition("/")[2]
    return f"`{result['shape']}` {result['bytes'] / GB:.2f} GB ({operation})"
