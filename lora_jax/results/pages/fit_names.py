"""What the pages on steps that fit a machine call a step, and its parts in bytes."""

from collections.abc import Mapping
from typing import Any

from lora_jax.results.rows import Row

GB = 10**9  # bytes
FLOAT32 = "float32"
# The columns that name a step.
SETTINGS = ("model", "method", "stored", "rows x tokens", "remat", "machine")
# Parts of a step's memory: the metric's name by that of the column.
PARTS = {
    "base": "bytes/base",
    "adapters": "bytes/adapters",
    "optimizer": "bytes/optimizer",
    "temporary": "bytes/temporary",
}


def names(row: Row) -> list[str]:
    """Return the values of `SETTINGS`."""
    config = row["config"]
    base = config["dtype"] if config["quantize"] == "none" else config["quantize"]
    machine = config["machine"]
    if config["mesh"]:
        machine = f"{machine}, {config['mesh']}"
    shape = f"{config['batch']} x {config['length']}"
    return [config["model"], label(config), base, shape, config["recompute"], machine]


def label(config: Mapping[str, Any]) -> str:
    """Return a method with LoRA's rank and matrices: `lora r=64 query,value`.

    The dtype of its adapters is in it where it is not float32.
    """
    text = config["method"]
    if config["targets"]:
        text = f"{text} r={config['rank']} {config['targets']}"
    dtype = adapter_dtype(config)
    return text if dtype == FLOAT32 else f"{text} in {dtype}"


def adapter_dtype(config: Mapping[str, Any]) -> str:
    """Return the dtype of a step's adapters."""
    # Rows from before there was a choice do not say it.
    return config.get("adapter_dtype", FLOAT32)


def scaled(metrics: Mapping[str, float], name: str, unit: float) -> float:
    """Return a metric in a unit; NaN where the compiler did not say it."""
    return metrics.get(name, float("nan")) / unit
