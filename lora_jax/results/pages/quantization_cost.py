"""The page on what a base's format costs in bits, weights, bytes and time.

A row has a format as `type` and one of two parts: *sizes* of the stored model, or a
timed *step* of LoRA. The 4-bit formats have rows of sizes for several block sizes, too;
the rows of a format's own block size have a `block` of None.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lora_jax.results.pages import format_names
from lora_jax.results.pages.format_names import format_name
from lora_jax.results.report import SMOKE, Block
from lora_jax.results.rows import Row
from lora_jax.results.tables import table as table_text

SIZES = "sizes"
STEP = "step"
MEGABYTE = 1e6  # bytes
DIGITS = {
    "bits": 3,
    "weight error": 4,
    "disk, MB": 1,
    "memory, MB": 1,
    "step, ms": 0,
    "peak, MB": 0,
}


def blocks(rows: Sequence[Row], table: pd.DataFrame) -> list[Block]:
    """Return the blocks of a model's section: both tables as text.

    `rows` are those of one model, and `table` is their `format_table`.
    """
    result: list[Block] = []
    # A random model is the only one whose numbers mean nothing.
    if str(rows[0]["config"]["model"]).startswith("tiny"):
        result.append(SMOKE)
    # Models without timed steps lack columns.
    digits = {name: count for name, count in DIGITS.items() if name in table}
    result.append(table_text(table, digits=digits))
    sizes = block_table(rows)
    if not sizes.empty:
        result += ["By block size:", table_text(sizes, digits=4)]
    return result


def format_table(rows: Sequence[Row], formats: Sequence[str]) -> pd.DataFrame:
    """Return a line for each of these formats that has rows, in their order.

    `bits` are those stored for each number of the blocks' matrices, `weight error` is
    ‖W - W'‖ / ‖W‖. Times are in ms, sizes in MB.
    """
    format_names.check(rows, formats)
    sizes = _metrics_by_format(rows, SIZES)
    steps = _metrics_by_format(rows, STEP)
    lines = []
    for name in formats:
        if name not in sizes:
            continue
        size = sizes[name]
        line = {
            "type": name,
            "bits": size["size/bits"],
            "weight error": size["error/relative"],
            "disk, MB": size["size/disk"] / MEGABYTE,
            "memory, MB": size["size/memory"] / MEGABYTE,
        }
        # Steps are timed last, and may not have run yet.
        if name in steps:
            step = steps[name]
            line["step, ms"] = 1e3 * step["step/seconds"]
            line["peak, MB"] = step["step/peak"] / MEGABYTE
        lines.append(line)
    return pd.DataFrame(lines)


def block_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return a line for each block size: bits and error of each 4-bit format."""
    lines: dict[int, dict[str, Any]] = {}
    for row in rows:
        block = row["config"].get("block")
        # Of no 4-bit format, of its own block size, or of a step.
        if not block:
            continue
        name = format_name(row["config"]["type"])
        line = lines.setdefault(block, {"block": block})
        line[f"{name}, bits"] = row["metrics"]["size/bits"]
        line[f"{name}, error"] = row["metrics"]["error/relative"]
    # In order of size, whatever the order of rows.
    return pd.DataFrame([lines[block] for block in sorted(lines)])


def _metrics_by_format(
    rows: Sequence[Row], part: str
) -> dict[str, Mapping[str, float]]:
    """The metrics of each format in a part, at its own block size."""
    metrics = {}
    for row in rows:
        config = row["config"]
        # Rows of steps do not have the setting.
        is_own_size = config.get("block") is None
        if config["part"] == part and is_own_size:
            metrics[format_name(config["type"])] = row["metrics"]
    return metrics
