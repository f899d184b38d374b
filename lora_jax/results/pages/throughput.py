"""The page on the time and memory of a training step: its tables and claims.

A row is one kind of step, which was timed in turn with the others of its group. All
claims are of LoRA, section 4.2 (Hu et al. 2021, arXiv 2106.09685v2).
"""

import math
from typing import NamedTuple

import pandas as pd

from lora_jax import paper
from lora_jax.results import claims
from lora_jax.results.agreement import Comparison
from lora_jax.results.arranging import in_order
from lora_jax.results.claims import Claim
from lora_jax.results.grouping import Group
from lora_jax.results.tables import table

SOURCE = "LoRA section 4.2"
OURS = "lora_jax"
# What the steps of one sitting differ in, and the order in which they stand.
ORDER = {
    "framework": (OURS, "peft"),
    "compute": ("float32", "bfloat16"),
    "method": ("full", "lora"),
}
AXES = tuple(ORDER)
METHODS = ORDER["method"]
# Times of another machine are other times: half as much again says little.
COMPARISON = Comparison(by=("model", *AXES), value="step, ms", error="", relative=0.5)

# Above the table of savings.
SAVINGS_TEXT = (
    "What LoRA saves. A verdict is on the direction alone; L2, L7 and L9 are the paper's "
    "claims in `paper_tables/claims.csv`:"
)


class Column(NamedTuple):
    """A metric as a column of the table of steps."""

    metric: str
    title: str
    unit: float  # what its values are multiplied by
    digits: int


COLUMNS = (
    Column("step/seconds", "step, ms", 1000, digits=1),
    Column("step/tokens_per_second", "tokens/s", 1, digits=0),
    Column("memory/peak_mb", "peak, MB", 1, digits=1),
    Column("memory/optimizer_mb", "optimizer, MB", 1, digits=3),
    Column("memory/checkpoint_mb", "checkpoint, MB", 1, digits=3),
)


class Saving(NamedTuple):
    """What LoRA saves of one thing, and the claim that it is held against."""

    claim: str
    title: str
    value: float
    nothing: float  # the value at which nothing is saved


def step_table(group: Group) -> pd.DataFrame:
    """Return a line for each framework, dtype of products and method.

    A time is in ms, a size in MB of 10^6 bytes, and what a framework does not say is
    missing (NaN): torch has no peak on CPU.
    """
    lines = []
    for row in group.rows:
        line = {"model": group.settings["model"]}
        line |= {name: row["config"][name] for name in AXES}
        for column in COLUMNS:
            value = row["metrics"].get(column.metric)
            is_known = value is not None
            line[column.title] = column.unit * value if is_known else math.nan
        lines.append(line)
    steps = pd.DataFrame(lines)
    # Sorting is stable: the first of the axes is sorted by last.
    for name in reversed(AXES):
        steps = in_order(steps, name, ORDER[name])
    return steps


def step_text(steps: pd.DataFrame) -> str:
    """Return the lines of `step_table` as text; the model stands in the heading."""
    digits = {column.title: column.digits for column in COLUMNS}
    return table(steps.drop(columns="model"), digits=digits)


def timed_on(group: Group) -> str:
    """Return a sentence on the machine, and on how many steps a time is the median of."""
    machine = group.first["provenance"]["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['backend']}; median of "
        f"{group.settings['steps']} steps."
    )


def savings(steps: pd.DataFrame) -> pd.DataFrame:
    """Return LoRA against full fine-tuning beside the paper's claims.

    There are three lines for each dtype of products that has both methods, in this
    library alone.
    """
    published = paper.claims().published_value
    # What a peer saves is not ours to claim.
    ours = steps[steps.framework == OURS].set_index(["compute", "method"])
    lines = []
    for compute in dict.fromkeys(steps.compute):
        # A page is drawn from the rows that are there.
        if any((compute, method) not in ours.index for method in METHODS):
            continue
        full = ours.loc[(compute, "full")]
        lora = ours.loc[(compute, "lora")]
        for saving in _savings(full, lora):
            line = {
                "compute": compute,
                "what": saving.title,
                "ours": round(saving.value, 2),
                "paper": f"{published[saving.claim]:g} ({saving.claim})",
                # The paper's GPT-3 on V100s is another thing: only the sign compares.
                "verdict": claims.verdict_on(saving.value - saving.nothing),
            }
            lines.append(line)
    return pd.DataFrame(lines)


def _savings(full: pd.Series, lora: pd.Series) -> list[Saving]:
    """What LoRA saves, from the lines of both methods."""
    # Of the time of full fine-tuning.
    share_of_time = lora["step, ms"] / full["step, ms"]
    time_saved = 100 * (1 - share_of_time)
    peak = full["peak, MB"] / lora["peak, MB"]
    checkpoint = full["checkpoint, MB"] / lora["checkpoint, MB"]
    return [
        Saving(
            "L9", "a step takes less time with LoRA: saved, %", time_saved, nothing=0
        ),
        Saving(
            "L2", "a step needs less memory with LoRA: full / LoRA", peak, nothing=1
        ),
        Saving(
            "L7",
            "the checkpoint is smaller with LoRA: full / LoRA",
            checkpoint,
            nothing=1,
        ),
    ]


def saving_claims(saved: pd.DataFrame) -> list[Claim]:
    """Return the lines of `savings` as claims."""
    result = []
    for line in saved.to_dict("records"):
        evidence = f"{line['ours']:g} in {line['compute']}"
        # The verdict is on the direction; how much is beside it, the paper's and ours.
        statement = f"{line['what']}; the paper has {line['paper']}"
        result.append(Claim(SOURCE, statement, evidence, line["verdict"]))
    return result


def against_peer(steps: pd.DataFrame) -> pd.DataFrame:
    """Return our step's time over the peer's; empty where no peer was timed."""
    times = steps.set_index(list(AXES))["step, ms"]
    lines = []
    for compute in dict.fromkeys(steps.compute):
        for method in METHODS:
            ours = (OURS, compute, method)
            peer = ("peft", compute, method)
            # Rows of one of them may be missing.
            if ours in times.index and peer in times.index:
                ratio = round(times[ours] / times[peer], 2)
                line = {"compute": compute, "method": method}
                line["step, lora_jax / peft"] = ratio
                lines.append(line)
    return pd.DataFrame(lines)
