"""LoRA section 4.2: where do the bytes of a training step go, for every method?

The parts of a training step by formula, and as XLA says of the compiled step, on
encoders that the library has (Hu et al. 2021, arXiv 2106.09685v2, abstract and section
4.2). Shapes suffice: nothing is loaded, fetched or run. All is in MB (10^6).

- *weights*, *optimizer* (Adam's two moments), *gradients* and *checkpoint* (on disk for
  one task) are exact. Frozen kernels are stored in the dtype of the products; all else,
  activations too, is float32.
- *activations*: what the backward pass needs, and its two largest temporaries. With d
  the width, f the feed-forward width, H heads and T tokens in a row, each block but the
  last keeps per token 3 d for query, key and value, 2 H T + 2 H for the softmax, 2 d for
  the norms, f for the GELU; d if query, key or value is trained or adapted, likewise d
  for the attention's output, d for up and f for down; and r for each adapter. The last
  block is computed for one token alone.
- *copies*: each block's kernels, cut out of the stack of all blocks', from the forward
  to the backward pass.
- *predicted*: the sum at the fullest moment, the backward pass of the block before the
  last; *early*: the gradients there then.
- *compiled*: arguments, temporaries and results of the compiled step, as XLA's CPU
  backend says.

No factor is fitted: the terms are the layers', and those that XLA adds (see below) were
read from the buffers of compiled steps.

    python experiments/memory.py                       # compiles 36 steps in 4 minutes
    python experiments/memory.py --preset full         # more ranks, longer rows
    python experiments/memory.py --models DIR --batch 16 --lengths 128 --out mine
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jax
import pandas as pd

from lora_jax import accounting, methods, models, results
from lora_jax.accounting import compiled_step, step_memory
from lora_jax.experiment import Experiment, Measurement
from lora_jax.results import Comparison, Report, Section
from lora_jax.results.stacked_bars import Bar, Panel, stacked

METHODS = ("full", "bitfit", "lora")
PARTS = (
    "weights",
    "optimizer",
    "gradients",
    "early",
    "activations",
    "copies",
    "checkpoint",
)
XLA = """
- Up to 12 layers are compiled one after the other. XLA then finds that what the backward
  pass is to compute anew (`jax.checkpoint`) was computed before, and keeps it: 2 d more
  a token and block for the norms (4 d if their scales are trained), and 4 f more for the
  GELU when up has an adapter. And it writes the softmax's divisors out, one for each
  score: H T more.
- **Not predicted**: so compiled, LoRA on attention matrices alone keeps parts of the
  GELU's formula too, 2 f more a token and block, from 4,096 tokens on (not at 3,072): the
  prediction is 17 to 26 % too low. With an adapter on down but not on up the output of
  the GELU is not kept, and the prediction is 14 % too high.
- More layers are a loop, whose two passes share nothing. But the stacks of kernels are
  copied whole, without the last layer's, and on CPU in float32 though they be bfloat16.
- The update has the gradient twice, as sum and as mean, since clipping reads all of it
  first: the fullest moment with few tokens.
"""


@dataclass(frozen=True)
class Options:
    models: tuple[str, ...] = ("minilm-l6", "roberta-base", "roberta-large")
    """Encoders: those named here, by shapes alone; or a directory, or a hub id."""
    batch: int = 32
    """Rows in a step."""
    lengths: tuple[int, ...] = (64,)
    """Tokens of each row."""
    methods: tuple[Literal["full", "bitfit", "lora"], ...] = METHODS
    """Adaptation methods."""
    targets: tuple[str, ...] = (
        "query,value",
        "query,key,value,output",
        "query,key,value,output,up,down",
    )
    """LoRA's sets of matrices, each at the first of the ranks."""
    ranks: tuple[int, ...] = (8, 64)
    """LoRA's ranks, each on the first set of matrices."""
    computes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Dtypes of matrix products."""


SMOKE = Options(
    models=("tiny",),
    batch=4,
    lengths=(16,),
    methods=("full", "lora"),
    targets=("query,value",),
    ranks=(2,),
    computes=("float32",),
)
PRESETS = {
    "smoke": (SMOKE, None),
    "quick": (Options(), None),
    "full": (Options(lengths=(64, 128, 256), ranks=(8, 1, 64)), None),
}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    items = []
    for model in options.models:
        for length in options.lengths:
            for compute in options.computes:
                shape = {"batch": options.batch, "length": length}
                for adaptation in adaptations(options):
                    settings = {"model": model, **adaptation, "compute": compute}
                    items.append(Measurement((), {**settings, **shape}, measure))
    problems = {}
    for item in items:
        try:
            shapes(item.settings)
        except ValueError as error:
            problems[str(error)] = None
    if problems:
        raise ValueError("; ".join(problems))
    return items


def adaptations(options: Options) -> list[dict[str, Any]]:
    """Methods with targets and rank; methods other than LoRA have neither."""
    if not options.targets or not options.ranks:
        raise ValueError("targets, ranks: expected at least one value of each")
    first_rank, *other_ranks = options.ranks
    sets = [(targets, first_rank) for targets in options.targets]
    sets += [(options.targets[0], rank) for rank in other_ranks]
    result = []
    for method in options.methods:
        for targets, rank in sets if method == "lora" else [("", 0)]:
            result.append({"method": method, "targets": targets, "rank": rank})
    return result


@lru_cache(maxsize=1)
def encoder(name: str) -> Any:
    """The named model, every leaf a shape."""
    if name in accounting.ARCHITECTURES:
        return step_memory.abstract_encoder(accounting.ARCHITECTURES[name])
    loaded = models.load(name)[0]
    return jax.eval_shape(lambda: loaded)


def shapes(settings) -> tuple[Any, Any]:
    """The trainable and the frozen leaves of a step, as shapes."""
    options = {"targets": settings["targets"], "rank": settings["rank"]}
    method = methods.make(settings["method"], **options)
    plain = encoder(settings["model"])
    longest = plain.config.max_positions - plain.config.offset
    if not (1 <= settings["length"] <= longest and settings["batch"] >= 1):
        raise ValueError(
            f"expected at least 1 row of 1 to {longest} tokens, {settings['model']}'s "
            f"positions; got {settings['batch']} of {settings['length']}"
        )
    return step_memory.split_shapes(plain, method, settings["compute"])


def measure(_trained, settings):
    for setting in settings:
        start = time.monotonic()
        trainable, frozen = shapes(setting)
        step = {name: setting[name] for name in ("batch", "length")}
        step["compute_dtype"] = setting["compute"]
        predicted = step_memory.predict_memory(trainable, frozen, **step)
        compiled = compiled_step.compiled_bytes(trainable, frozen, **step)
        sizes = predicted._asdict()
        sizes["temporary"] = predicted.total - predicted.weights - predicted.optimizer
        sizes["total"] = predicted.total
        metrics = {f"predicted/{name}": size for name, size in sizes.items()}
        metrics |= {f"compiled/{name}": size for name, size in compiled.items()}
        yield {"metrics": metrics, "seconds": round(time.monotonic() - start, 3)}


def show(rows: list) -> Report:
    by_shape: dict[tuple, list] = {}
    for row in sorted(rows, key=place):
        by_shape.setdefault(place(row)[:2], []).append(row)
    sections = []
    tables = []
    for (length, batch), part in by_shape.items():
        table = step_table(part)
        tables.append(table)
        text = table.drop(columns=["batch", "length"])
        digits = dict.fromkeys(text.columns[3:], 1) | {"checkpoint": 2}
        blocks = [results.table(text, digits=digits), agreement(table)]
        sections.append(Section(f"{batch} rows of {length} tokens", blocks))
    sections.append(Section("What XLA does that the layers do not ask for", [XLA]))
    first = next(iter(by_shape.values()))
    return Report(
        title="Memory of a training step",
        intro=__doc__,
        sections=sections,
        data=pd.concat(tables),
        figures={"": figure(first)},
        comparison=Comparison(
            by=("batch", "length", "model", "compute", "method"),
            value="compiled",
            error="",
            relative=0.1,
        ),
    )


def place(row) -> tuple:
    """By length, batch, model; float32 before bfloat16; full, BitFit, LoRA."""
    config = row["config"]
    targets = config["targets"]
    method = METHODS.index(config["method"]), len(targets), targets, config["rank"]
    is_half = config["compute"] != "float32"
    return config["length"], config["batch"], config["model"], is_half, *method


def label(config) -> str:
    if config["method"] != "lora":
        return config["method"]
    initials = [name[:1] for name in config["targets"].split(",")]
    return f"lora {','.join(initials)} r={config['rank']}"


def step_table(rows: list) -> pd.DataFrame:
    """One line for each step, in MB."""
    lines = []
    for row in rows:
        config = row["config"]
        mb = {name: size / 1e6 for name, size in row["metrics"].items()}
        names = ("batch", "length", "model", "compute")
        line = {name: config[name] for name in names}
        line["method"] = label(config)
        for part in PARTS:
            line[part] = mb[f"predicted/{part}"]
        line["predicted"] = mb["predicted/total"]
        line["compiled"] = mb["compiled/total"]
        columns = {"difference, %": "total", "of temporaries, %": "temporary"}
        for title, part in columns.items():
            ratio = mb[f"predicted/{part}"] / mb[f"compiled/{part}"]
            line[title] = 100 * (ratio - 1)
        lines.append(line)
    return pd.DataFrame(lines)


def agreement(table: pd.DataFrame) -> str:
    distance = table["difference, %"].abs().reset_index(drop=True)
    worst = table.iloc[int(distance.to_numpy().argmax())]
    return (
        f"{(distance <= 10).sum()} of {len(table)} totals are within 10 %, "
        f"{(distance <= 5).sum()} within 5 %; the largest difference is "
        f"{worst['difference, %']:+.1f} %: {worst.model}, {worst.compute}, "
        f"{worst.method}. *Of temporaries*: without weights and optimizer, which are "
        "alike."
    )


def figure(rows: list):
    """The parts at the fullest moment above the compiled total, by dtype and model."""
    panels: dict[str, dict[str, list[Bar]]] = {}
    for row in rows:
        config = row["config"]
        sizes = {}
        for name in step_memory.StepMemory._fields:
            sizes[name] = int(row["metrics"][f"predicted/{name}"])
        fullest = step_memory.StepMemory(**sizes).fullest
        parts = {name: size / 1e6 for name, size in fullest.items()}
        bar = Bar(label(config), parts, row["metrics"]["compiled/total"] / 1e6)
        by_model = panels.setdefault(config["compute"], {})
        by_model.setdefault(config["model"], []).append(bar)
    grid = []
    for compute, by_model in panels.items():
        grid.append(
            [Panel(f"{name}, {compute}", bars) for name, bars in by_model.items()]
        )
    # A column is a model, on one scale: that needs the same models in each dtype.
    models_by_dtype = [list(by_model) for by_model in panels.values()]
    if any(names != models_by_dtype[0] for names in models_by_dtype):
        grid = [[panel for row in grid for panel in row]]
    config = rows[0]["config"]
    xlabel = f"MB for {config['batch']} rows of {config['length']} tokens"
    return stacked(grid, xlabel=xlabel, total_label="compiled")


EXPERIMENT = Experiment("memory", PRESETS, measurements, show, description=__doc__)

if __name__ == "__main__":
    EXPERIMENT.script()
