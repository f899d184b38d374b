"""The page on the memory of a training step: explanations, tables and the figure.

Rows have the settings of `accounting.encoder_step.EncoderStep` and its memory in bytes,
predicted and compiled. All that is shown is in MB of 10^6 bytes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lora_jax.plural import counted
from lora_jax.results import pictures
from lora_jax.results.agreement import Comparison
from lora_jax.results.grouping import Group, short_name
from lora_jax.results.rows import Row
from lora_jax.results.stacked_bars import Bar, Panel, stacked
from lora_jax.results.tables import table

MB = 10**6  # bytes
# In the order of the page.
METHODS = ("full", "bitfit", "lora")
# Settings as columns: those of a step's rows of tokens, and all others.
SHAPE = ("batch", "length")
NAMES = ("model", "compute", "method")
# `StepMemory` has them in another order.
PARTS = (
    "weights",
    "optimizer",
    "gradients",
    "early",
    "activations",
    "copies",
    "checkpoint",
)
# Columns of differences, and the size that is compared.
DIFFERENCES = {"difference, %": "total", "of temporaries, %": "temporary"}

# Another version of XLA lays buffers out in another way.
COMPARISON = Comparison(by=(*SHAPE, *NAMES), value="compiled", error="", relative=0.1)

COLUMNS = """
All sizes are in MB of 10^6 bytes. No factor is fitted: the terms are the layers', and
those that XLA adds (see below) were read from the buffers of compiled steps.

- *weights*, *optimizer* (Adam's two moments), *gradients* and *checkpoint* (what is
  stored on disk for one task) are exact. Frozen kernels are stored in the dtype of the
  products; everything else, activations too, is float32.
- *activations* are what the backward pass needs, and its two largest temporaries. Let d
  be the width, f the feed-forward width, H the heads and T the tokens in a row. Each
  block but the last keeps for each token: 3 d for query, key and value; 2 H T + 2 H for
  the softmax; 2 d for the norms; f for the GELU; d if query, key or value is trained or
  adapted, likewise d for the attention's output, d for up and f for down; and r for each
  adapter. The last block is computed for one token alone.
- *copies* are each block's kernels, cut out of the stack of all blocks'. They exist from
  the forward to the backward pass.
- *predicted* is the sum at the fullest moment: the backward pass of the block before the
  last, or the update. *early* are the gradients that exist during that backward pass.
- *compiled* are the arguments, temporaries and results of the compiled step, as XLA's CPU
  backend says.
"""
XLA = """
- Up to 12 layers are compiled one after the other. XLA then finds that what the backward
  pass is to compute anew (`jax.checkpoint`) was computed before, and keeps it: 2 d more
  for each token and block for the norms (4 d if their scales are trained), and 4 f more
  for the GELU when up has an adapter. It also writes out the softmax's divisors, one for
  each score, which is H T more.
- In steps that are compiled so, LoRA on attention matrices alone keeps parts of the GELU's
  formula too, 2 f more for each token and block, from 4,096 tokens on (not at 3,072). XLA
  does not say why; the number of tokens is all that is known of it.
- **Not predicted**: with an adapter on down but not on up, the output of the GELU is not
  kept, and the prediction is 14 % too high.
- More layers are a loop, whose two passes share nothing. But the stacks of kernels are
  copied whole, without the last layer's, and on CPU in float32 even where they are
  bfloat16.
- The update has the gradient twice, as sum and as mean, since clipping reads all of it
  first. With few tokens this is the fullest moment.
"""


def by_shape(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows by `32 rows of 64 tokens`, short rows of tokens first.

    Each list is ordered by model, float32 before bfloat16, then by method.
    """
    parts: dict[str, list[Row]] = {}
    for row in sorted(rows, key=_place):
        config = row["config"]
        title = shape_text(config)
        parts.setdefault(title, []).append(row)
    return parts


def shape_text(config: Mapping[str, Any]) -> str:
    """Return `32 rows of 64 tokens`."""
    rows = counted(config["batch"], "row")
    return f"{rows} of {counted(config['length'], 'token')}"


def step_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Return a line for each step, in MB.

    Its columns are batch, length, model, compute and method, the predicted `PARTS`,
    both totals, and the differences of predicted from compiled in %.
    """
    lines = []
    for row in rows:
        config = row["config"]
        sizes = row["metrics"]
        line = {name: config[name] for name in (*SHAPE, *NAMES)}
        # LoRA's targets and rank go into its name.
        line["method"] = label(config)
        for part in PARTS:
            line[part] = sizes[f"predicted/{part}"] / MB
        line["predicted"] = sizes["predicted/total"] / MB
        line["compiled"] = sizes["compiled/total"] / MB
        for title, part in DIFFERENCES.items():
            # In MB, so that the last digits are those of the columns.
            predicted = sizes[f"predicted/{part}"] / MB
            compiled = sizes[f"compiled/{part}"] / MB
            line[title] = 100 * (predicted / compiled - 1)
        lines.append(line)
    return pd.DataFrame(lines)


def step_text(steps: pd.DataFrame) -> str:
    """Return the lines of `step_table` as text; their shape stands in the heading."""
    columns = steps.drop(columns=list(SHAPE))
    digits = {}
    for name in columns.columns[len(NAMES) :]:
        digits[name] = 1
    # A checkpoint of LoRA is a few tenths of an MB.
    digits["checkpoint"] = 2
    return table(columns, digits=digits)


def agreement(steps: pd.DataFrame) -> str:
    """Return a sentence on how near the predicted totals come to the compiled ones."""
    # Too high and too low count alike.
    distances = steps["difference, %"].abs().to_numpy()
    worst = steps.iloc[int(distances.argmax())]
    return (
        f"{(distances <= 10).sum()} of {len(steps)} totals are within 10 %, "
        f"{(distances <= 5).sum()} within 5 %; the largest difference is "
        f"{worst['difference, %']:+.1f} %: {worst.model}, {worst.compute}, "
        f"{worst.method}. *Of temporaries*: without weights and optimizer, which are "
        "alike."
    )


def pictures_of(
    by_shape: Mapping[str, Sequence[Row]],
    fullest: Callable[[Mapping[str, float]], Mapping[str, float]],
) -> dict[str, Any]:
    """Return a picture of the rows of each shape, as fields of a report.

    `fullest` returns the parts at the fullest moment of a step from its metrics.
    """
    groups = [Group(title, {}, list(rows)) for title, rows in by_shape.items()]
    items = []
    for rows in by_shape.values():
        parts = [fullest(row["metrics"]) for row in rows]
        items.append((rows, parts))
    return pictures.of_groups(groups, items, lambda item: figure(*item))


def figure(rows: Sequence[Row], parts: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the parts of each step above its compiled total, in MB.

    `parts` has the bytes of each row's parts at its fullest moment. All rows have one
    shape. A row of panels is a dtype, and a column a model; where the dtypes have other
    models, all panels stand in one row.
    """
    by_dtype = _bars(rows, parts)
    grid = []
    for compute, by_model in by_dtype.items():
        panels = []
        for model, bars in by_model.items():
            panels.append(Panel(f"{short_name(model)}, {compute}", bars))
        grid.append(panels)
    # A column is a model, on one scale: that needs the same models in each dtype.
    first, *others = [list(by_model) for by_model in by_dtype.values()]
    if any(names != first for names in others):
        grid = [list(chain(*grid))]
    config = rows[0]["config"]
    xlabel = f"MB for {shape_text(config)}"
    return stacked(grid, xlabel=xlabel, total_label="compiled")


def label(config: Mapping[str, Any]) -> str:
    """Return the method's name; of LoRA `lora q,v r=8`, with the targets' initials."""
    if config["method"] != "lora":
        return config["method"]
    names = config["targets"].split(",")
    initials = ",".join(name[:1] for name in names)
    return f"lora {initials} r={config['rank']}"


def _bars(
    rows: Sequence[Row], parts: Sequence[Mapping[str, float]]
) -> dict[str, dict[str, list[Bar]]]:
    """The bars by dtype, then by model."""
    bars: dict[str, dict[str, list[Bar]]] = {}
    for row, sizes in zip(rows, parts, strict=True):
        config = row["config"]
        parts_in_mb = {name: size / MB for name, size in sizes.items()}
        # Drawn beneath the stack of parts.
        total = row["metrics"]["compiled/total"] / MB
        bar = Bar(label(config), parts_in_mb, total)
        by_model = bars.setdefault(config["compute"], {})
        by_model.setdefault(config["model"], []).append(bar)
    return bars


def _place(row: Row) -> tuple:
    """By length, batch, model; float32 before bfloat16; full, BitFit, LoRA."""
    config = row["config"]
    targets = config["targets"]
    # LoRA on few matrices first.
    method = METHODS.index(config["method"]), len(targets), targets, config["rank"]
    is_half = config["compute"] != "float32"
    return config["length"], config["batch"], config["model"], is_half, *method
