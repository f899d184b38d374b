"""The page on the memory of training GPT-3: its tables, texts and claims.

A row has the bytes that training stores, by full fine-tuning and by LoRA, of an
architecture in a precision (`accounting.optimizer_states.compare_with_lora`). All claims
are of LoRA, section 4.2 (Hu et al. 2021, arXiv 2106.09685v2).
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import pandas as pd

from lora_jax import paper
from lora_jax.results import claims
from lora_jax.results.arranging import in_order
from lora_jax.results.claims import Claim
from lora_jax.results.rows import Row

Stored = Mapping[str, float]
"""The bytes of one row: `full/total`, `lora/checkpoint` and so on."""

SOURCE = "LoRA section 4.2"
# These depend on the precision, which the paper does not say.
DEPENDENT = ("L2", "L3", "L15")
EXPLANATION = """
The 1.2 TB are 6.9 bytes a parameter, which is between two precisions. Six bytes, for
weights and moments in FP16, are 1.05 TB, and with them the 3 x and the 2/3 are as
printed. Eight bytes, with the gradient, are 1.40 TB or 1.27 TiB, and 4 x. The 350 GB are
the frozen weights in FP16. LoRA's checkpoint of 18,874,368 numbers is 37.7 MB or 36.0
MiB.
"""


class Quantity(NamedTuple):
    """What a claim is about, and what it is with us."""

    title: str
    value: float
    unit: str  # empty for a share


def stored_bytes(rows: Iterable[Row], by: str, **settings: str) -> dict[str, Stored]:
    """Return the bytes of the rows with these settings, by another setting."""
    stored = {}
    for row in rows:
        config = row["config"]
        if settings.items() <= config.items():
            stored[config[by]] = row["metrics"]
    return stored


def precision_table(
    by_precision: Mapping[str, Stored], bytes_each: Mapping[str, int]
) -> pd.DataFrame:
    """Return a line for each precision that has a row, in the order of `bytes_each`.

    `bytes_each` has the bytes of a trainable parameter by precision. Sizes are in TB of
    10^12, TiB of 2^40 and GB of 10^9 bytes.
    """
    lines = []
    for name, size in bytes_each.items():
        # A page is drawn from the rows that are there.
        if name not in by_precision:
            continue
        stored = by_precision[name]
        # In memory while training, in bytes.
        full = stored["full/total"]
        lora = stored["lora/total"]
        line = {
            "precision": name,
            "bytes each": size,
            "full, TB": full / 1e12,
            "full, TiB": full / 2**40,
            "LoRA, GB": lora / 1e9,
            "full / LoRA": full / lora,
        }
        lines.append(line)
    return pd.DataFrame(lines)


def size_table(
    by_architecture: Mapping[str, Stored], order: Sequence[str]
) -> pd.DataFrame:
    """Return a line for each architecture, in this order; empty without rows.

    Sizes are in GB of 10^9 and MB of 10^6 bytes, parameters are those that are trained.
    """
    lines = []
    for name, stored in by_architecture.items():
        full = stored["full/total"]
        lora = stored["lora/total"]
        line = {
            "model": name,
            # Rows have all numbers as floats.
            "parameters": int(stored["full/parameters"]),
            "LoRA's": int(stored["lora/parameters"]),
            "full, GB": full / 1e9,
            "LoRA, GB": lora / 1e9,
            "full / LoRA": full / lora,
            "checkpoint, full, MB": stored["full/checkpoint"] / 1e6,
            "checkpoint, LoRA, MB": stored["lora/checkpoint"] / 1e6,
        }
        lines.append(line)
    # An empty table has no column to sort by.
    if not lines:
        return pd.DataFrame()
    return in_order(pd.DataFrame(lines), "model", order)


def quantities(stored: Stored) -> dict[str, Quantity]:
    """Return what section 4.2 claims something about, by the claim's id."""
    # In memory while training, in bytes.
    full = stored["full/total"]
    lora = stored["lora/total"]
    # On disk, for one task.
    full_checkpoint = stored["full/checkpoint"]
    lora_checkpoint = stored["lora/checkpoint"]
    # The pretrained model once, and an adapter for each of 100 tasks.
    hundred = full_checkpoint + 100 * lora_checkpoint
    checkpoints = full_checkpoint / lora_checkpoint
    return {
        "L3": Quantity("memory, full fine-tuning", full / 1e12, "TB"),
        "L2": Quantity("memory, full / LoRA", full / lora, "x"),
        "L15": Quantity("memory saved, up to", 1 - lora / full, ""),
        "L4": Quantity("memory, LoRA", lora / 1e9, "GB"),
        "L5": Quantity("checkpoint, full", full_checkpoint / 1e9, "GB"),
        "L6": Quantity("checkpoint, LoRA", lora_checkpoint / 1e6, "MB"),
        "L7": Quantity("checkpoint, full / LoRA", checkpoints, "x"),
        "L8": Quantity("100 adapted models", hundred / 1e9, "GB"),
    }


def verdict_table(by_precision: Mapping[str, Stored], usual: str) -> pd.DataFrame:
    """Return the paper's numbers beside ours, a line for each claim.

    Ours are in the precision `usual`, or in that which comes nearest where the claim
    depends on the precision. Without a row of the usual one the table is empty.
    """
    lines = []
    # Claims on checkpoints are of 16-bit weights.
    if usual in by_precision:
        published = paper.claims().published_value
        for claim in quantities(by_precision[usual]):
            printed = _printed(published[claim])
            names = list(by_precision) if claim in DEPENDENT else [usual]
            lines.append(_verdict(claim, printed, names, by_precision))
    return pd.DataFrame(lines)


def memory_claims(verdicts: pd.DataFrame) -> list[Claim]:
    """Return the lines of `verdict_table` as claims."""
    result = []
    for line in verdicts.to_dict("records"):
        statement = f"{line['what']}: {line['paper']} ({line['claim']})"
        result.append(Claim(SOURCE, statement, line["ours"], line["verdict"]))
    return result


def _printed(value: float | str) -> str:
    """A published value as it is compared; a share such as `2/3` has two decimals."""
    if isinstance(value, str):
        return f"{float(Fraction(value)):.2f}"
    return f"{value:g}"


def _verdict(
    claim: str,
    printed: str,
    names: Sequence[str],
    by_precision: Mapping[str, Stored],
) -> dict[str, Any]:
    """The line of a claim, in the one of these precisions that comes nearest."""
    quantities_by_name = {}
    distances = {}  # from the printed value
    for name in names:
        quantity = quantities(by_precision[name])[claim]
        quantities_by_name[name] = quantity
        distances[name] = abs(quantity.value - float(printed))
    # Of equal ones the first.
    nearest = min(distances, key=distances.__getitem__)
    title, value, unit = quantities_by_name[nearest]
    verdict = claims.near_value(value, printed)
    # The precision was chosen for it.
    if claim in DEPENDENT and verdict == claims.EQUAL:
        verdict = claims.FITTED
    return {
        "claim": claim,
        "what": title,
        "paper": f"{printed} {unit}".strip(),
        "ours": f"{value:.4g} {unit}".strip(),
        "precision": nearest,
        "verdict": verdict,
    }
