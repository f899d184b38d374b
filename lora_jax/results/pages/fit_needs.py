"""What the page on steps that fit a machine reads of a row, see `needs.py`."""

from lora_jax.results.row_fields import (
    COUNT,
    NAME,
    OBJECT,
    POSITIVE,
    SIZE,
    TEXT,
    WHOLE,
    Kind,
    Needs,
)
from lora_jax.results.rows import Row

# Of the settings, all by their names.
SETTINGS: Needs = {
    "config.model": NAME,
    "config.method": NAME,
    "config.targets": TEXT,
    "config.rank": WHOLE,
    "config.quantize": NAME,
    "config.dtype": NAME,
    "config.batch": COUNT,
    "config.length": COUNT,
    "config.recompute": NAME,
    "config.machine": NAME,
    "config.mesh": TEXT,
}
# What is known of a step before it is compiled.
SHAPES: Needs = {
    "compiler": TEXT,
    "source": TEXT,
    "collectives": OBJECT,
    "metrics.step/devices": POSITIVE,
    "metrics.step/fits": SIZE,
    "metrics.step/operations": POSITIVE,
    "metrics.bytes/base": SIZE,
    "metrics.bytes/adapters": SIZE,
    "metrics.bytes/optimizer": SIZE,
    "metrics.bytes/device": POSITIVE,
}
# What a compiler says of a step that it does not refuse.
COMPILED: Needs = {
    "largest.[].shape": TEXT,
    "largest.[].operation": TEXT,
    "largest.[].bytes": WHOLE,
    "metrics.bytes/temporary": POSITIVE,
    "metrics.bytes/total": POSITIVE,
    "metrics.step/accessed": POSITIVE,
}
MESSAGES: Needs = {"collectives.{}.count": COUNT, "collectives.{}.bytes": WHOLE}


def needs(row: Row) -> Needs:
    """Return what the page reads of a row."""
    known: dict[str, Kind] = {**SETTINGS, **SHAPES}
    # It came later than the others.
    if "adapter_dtype" in row["config"]:
        known["config.adapter_dtype"] = NAME
    if "refused" in row:
        return {**known, "refused": TEXT}
    # A single device sends no messages.
    messages = MESSAGES if row.get("collectives") else {}
    return {**known, **COMPILED, **messages}
