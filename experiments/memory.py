"""Where the bytes of training go, for every method: the memory claims of LoRA's abstract and section 4.2, QLoRA's Figure 6.

Hu et al. 2021 (arXiv 2106.09685v2). The parts of a training step by formula, and as XLA says of the compiled step, on models the
library has; shapes suffice, nothing is loaded, fetched or run. And what training GPT-3 175B stores, 1.2 TB against 350 GB in the
paper, which does not say in which precision, so in each; and a QLoRA step of LLaMA (Dettmers et al. 2023, arXiv 2305.14314v1).
Formulas compare with the papers; the compiled steps are those of XLA's CPU backend. Quick compiles 36: 4 minutes, two busy cores.

    python experiments/memory.py
    python experiments/memory.py --preset full            # more ranks, longer rows
    python experiments/memory.py --models DIR --batch 16 --lengths 128 --out mine
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import pandas as pd
import qlora_memory

from lora_jax import accounting, methods, models, paper, results
from lora_jax.accounting import compiled_step, llama_memory, step_memory
from lora_jax.accounting.optimizer_states import (
    HALF,
    MIXED,
    PRECISIONS,
    compare_with_lora,
)
from lora_jax.experiment import cli, provenance, schedule
from lora_jax.results.claims import Verdict
from lora_jax.results.stacked_bars import Bar, Panel, stacked

NAME, SECOND = "memory", "memory_llama.png"


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: a tiny model. quick: 36 steps of three models. full: more ranks and lengths."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them."""
    models: tuple[str, ...] = ("minilm-l6", "roberta-base", "roberta-large")
    """Encoders: those named here, by shapes alone; or a directory, or a hub id."""
    batch: int = 32
    lengths: tuple[int, ...] = (64,)
    """Tokens of each row."""
    methods: tuple[Literal["full", "bitfit", "lora"], ...] = ("full", "bitfit", "lora")
    targets: tuple[str, ...] = (
        "query,value",
        "query,key,value,output",
        "query,key,value,output,up,down",
    )
    """LoRA's sets of matrices, each at the first of the ranks."""
    ranks: tuple[int, ...] = (8, 64)
    """LoRA's ranks, each on the first set of matrices."""
    computes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """What products are taken in."""


PRESETS = {
    "smoke": Config(
        "smoke",
        Path("results/smoke"),
        ("tiny",),
        4,
        (16,),
        ("full", "lora"),
        ("query,value",),
        (2,),
        ("float32",),
    ),
    "quick": Config(),
    "full": Config("full", lengths=(64, 128, 256), ranks=(8, 1, 64)),
}
GPT3, TARGETS, RANK = "gpt3-175b", "query,value", 4  # section 4.2's example


def cells(config: Config) -> list[schedule.Row]:
    """One cell for each architecture and precision, for each LLaMA of QLoRA's Figure 6, for each step to compile.

    Raises:
        ValueError: a list of the configuration is empty.
    """
    lists = ("models", "lengths", "methods", "targets", "ranks", "computes")
    if empty := [name for name in lists if not getattr(config, name)]:
        raise ValueError(f"no cells: expected at least one value of {', '.join(empty)}")
    sets = [(targets, config.ranks[0]) for targets in config.targets]
    sets += [(config.targets[0], rank) for rank in config.ranks[1:]]
    return (
        [
            {
                "architecture": name,
                "targets": TARGETS,
                "rank": RANK,
                "precision": precision,
            }
            for name in accounting.ARCHITECTURES
            for precision in (PRECISIONS if name == GPT3 else [MIXED.name])
        ]
        + qlora_memory.CONFIGS
        + [
            {
                "model": model,
                "method": method,
                "targets": targets,
                "rank": rank,
                "compute": compute,
                "batch": config.batch,
                "length": length,
            }
            for model in config.models
            for length in config.lengths
            for compute in config.computes
            for method in config.methods
            for targets, rank in (sets if method == "lora" else [("", 0)])
        ]
    )


@lru_cache(maxsize=1)
def encoder(name: str) -> Any:
    """The named model, every leaf a shape; raises what `step_memory.abstract_encoder` and `models.load` raise."""
    if name not in accounting.ARCHITECTURES:
        loaded = models.load(name)[0]
        return jax.eval_shape(lambda: loaded)
    return step_memory.abstract_encoder(accounting.ARCHITECTURES[name])


def split(cell: schedule.Row) -> tuple[Any, Any]:
    """The cell's trainable and frozen leaves, as shapes.

    Raises:
        ValueError: what is wrong with model, method or shape.
    """
    method = methods.make(cell["method"], targets=cell["targets"], rank=cell["rank"])
    plain = encoder(cell["model"])
    longest = plain.config.max_positions - plain.config.offset
    if not (1 <= cell["length"] <= longest and cell["batch"] >= 1):
        raise ValueError(
            f"expected at least 1 row of 1 to {longest} tokens, {cell['model']}'s "
            f"positions; got {cell['batch']} of {cell['length']}"
        )
    return step_memory.split_shapes(plain, method, cell["compute"])


def check(cells: Sequence[schedule.Row]) -> None:
    """Raises one ValueError with all that is wrong with the steps."""
    problems = []
    for cell in cells:
        try:
            split(cell)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))


def step(cell: schedule.Row) -> dict[str, int]:
    """Bytes of the cell's training step, predicted and compiled."""
    trainable, frozen = split(cell)
    shape = {name: cell[name] for name in ("batch", "length")}
    shape["compute_dtype"] = cell["compute"]
    predicted, compiled = (
        step_memory.predict_memory(trainable, frozen, **shape),
        compiled_step.compiled_bytes(trainable, frozen, **shape),
    )
    whole = {
        "temporary": predicted.total - predicted.weights - predicted.optimizer,
        "total": predicted.total,
    }
    metrics = {
        f"predicted/{name}": size
        for name, size in (predicted._asdict() | whole).items()
    }
    return metrics | {f"compiled/{name}": size for name, size in compiled.items()}


def label(cell: schedule.Row) -> str:
    """The cell's method, in short."""
    initials = ",".join(name[:1] for name in cell["targets"].split(","))
    return (
        f"lora {initials} r={cell['rank']}"
        if cell["method"] == "lora"
        else cell["method"]
    )


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """Draw out/memory.md, .csv, .png and memory_llama.png from the rows alone."""
    steps: dict[tuple, list[schedule.Row]] = {}
    for row in sorted((row for row in rows if "model" in row["config"]), key=_place):
        steps.setdefault(_place(row)[:2], []).append(row)
    tables = [summary(group) for group in steps.values()]
    drawn = figure(next(iter(steps.values()))) if steps else None
    if (bars := qlora_memory.figure(rows)) is not None:
        results.write(out / SECOND, results.png(bars))
    markdown = "\n".join(
        [
            HEADER,
            *map(section, tables),
            WHY,
            *published(rows),
            *qlora_memory.section(rows, SECOND),
        ]
    )
    return results.render(
        out / NAME,
        markdown=markdown,
        table=pd.concat([pd.DataFrame(), *tables]),
        figure=drawn,
    )


def _place(row: schedule.Row) -> tuple:
    """Among the others: by length, batch, model, float32 before bfloat16; full, BitFit, LoRA."""
    at = row["config"]
    method = (
        ("full", "bitfit", "lora").index(at["method"]),
        len(at["targets"]),
        at["targets"],
        at["rank"],
    )
    return at["length"], at["batch"], at["model"], at["compute"] != "float32", *method


HEADER = """# Memory of training

Made by `python experiments/memory.py` from the rows of `memory.jsonl`. First one step on an encoder of the library, in MB (10^6):

- *weights*, *optimiser* (Adam's two moments), *gradients* and *checkpoint* (on disk for one task) are exact, from shapes. Frozen
  kernels are stored in the dtype of the products; all else, activations too, is float32.
- *activations*: what the backward pass needs, and its two largest temporaries. With d the width, f the feed-forward width, H heads
  and T tokens in a row, each block but the last keeps per token 3 d for query, key and value, 2 H T + 2 H for the softmax, 2 d for
  the norms, f for the GELU; d if query, key or value learns or has an adapter, likewise d for the attention's output, d for up and
  f for down; and r for each adapter. The last block is computed for one token alone.
- *copies*: each block's kernels, cut out of the stack of all blocks', from the forward to the backward pass.
- *predicted*: the sum at the fullest moment, the backward pass of the block before the last; *early*: the gradients there then.
- *compiled*: arguments, temporaries and results of the compiled step, as XLA's CPU backend says.

No factor is fitted: the terms are the layers', and those that XLA adds (see below) were read from the buffers of compiled steps.
"""
WHY = """## What XLA does that the layers do not ask for

- Up to 12 layers are compiled one after the other. XLA then finds that what the backward pass is to compute anew (`jax.checkpoint`)
  was computed before, and keeps it: 2 d more a token and block for the norms (4 d if their scales learn), and 4 f more for the GELU
  when up has an adapter. And it writes the softmax's divisors out, one for each score: H T more.
- **Not predicted**: so compiled, LoRA on attention matrices alone keeps parts of the GELU's formula too, 2 f more a token and
  block, from 4,096 tokens on (not at 3,072): the prediction is 17 to 26 % too low. With an adapter on down but not on up the output
  of the GELU is not kept, and the prediction is 14 % too high.
- More layers are a loop, whose two passes share nothing. But the stacks of kernels are copied whole, without the last layer's, and
  on CPU in float32 though they be bfloat16.
- The update has the gradient twice, as sum and as mean, since clipping reads all of it first: the fullest moment with few tokens.
"""
SHOWN = (
    "weights",
    "optimizer",
    "gradients",
    "early",
    "activations",
    "copies",
    "checkpoint",
)
PARTS = {name: name.replace("optimizer", "optimiser") for name in SHOWN}


def summary(group: list[schedule.Row]) -> pd.DataFrame:
    """One line for each step, in MB."""
    lines = []
    for row in group:
        at, mb = (
            row["config"],
            {name: size / 1e6 for name, size in row["metrics"].items()},
        )
        line = {name: at[name] for name in ("batch", "length", "model", "compute")} | {
            "method": label(at)
        }
        line |= {shown: mb[f"predicted/{name}"] for name, shown in PARTS.items()}
        line |= {"predicted": mb["predicted/total"], "compiled": mb["compiled/total"]}
        for name, part in (
            ("difference, %", "total"),
            ("of temporaries, %", "temporary"),
        ):
            line[name] = 100 * (mb[f"predicted/{part}"] / mb[f"compiled/{part}"] - 1)
        lines.append(line)
    return pd.DataFrame(lines)


def section(table: pd.DataFrame) -> str:
    """The steps of one shape, and how far formula and compiled step agree."""
    far = table["difference, %"].abs()
    worst = table.loc[far.idxmax()]
    shown = table.drop(columns=["batch", "length"])
    text = results.markdown(
        shown, digits={name: 1 for name in shown.columns[3:]} | {"checkpoint": 2}
    )
    return (
        f"## {table.batch.iloc[0]} rows of {table.length.iloc[0]} tokens\n\n{text}\n{(far <= 10).sum()} of {len(table)} totals are "
        f"within 10 %, {(far <= 5).sum()} within 5 %; the largest difference is {worst['difference, %']:+.1f} %: {worst.model}, "
        f"{worst.compute}, {worst.method}. *Of temporaries*: without weights and optimiser, which are alike.\n"
    )


def figure(group: list[schedule.Row]) -> Any:
    """The parts at the fullest moment above the compiled total: a row for each dtype, a column for each model."""
    panels: dict[str, dict[str, list[Bar]]] = {}
    for row in group:
        at, said = row["config"], row["metrics"]
        predicted = step_memory.StepMemory(
            **{
                name: int(said[f"predicted/{name}"])
                for name in step_memory.StepMemory._fields
            }
        )
        parts = {PARTS[name]: size / 1e6 for name, size in predicted.fullest.items()}
        bar = Bar(label(at), parts, said["compiled/total"] / 1e6)
        panels.setdefault(at["compute"], {}).setdefault(at["model"], []).append(bar)
    rows = [
        [Panel(f"{name}, {dtype}", bars) for name, bars in found.items()]
        for dtype, found in panels.items()
    ]
    return stacked(
        rows,
        xlabel="MB for {batch} rows of {length} tokens".format(**group[0]["config"]),
        whole="compiled",
    )


def stored(rows: list[schedule.Row], by: str, **only: str) -> dict[str, Any]:
    """The metrics of the rows with these settings, by another setting."""
    return {
        row["config"][by]: row["metrics"]
        for row in rows
        if only.items() <= row["config"].items()
    }


class Published(NamedTuple):
    """A published number beside ours; `verdict` is one of `claims.VALUES`."""

    claim: str
    what: str
    paper: str
    ours: str
    precision: str
    verdict: str


class Measure(NamedTuple):
    """What a claim is about, and how it is computed from `compare_with_lora`."""

    title: str
    unit: str
    compute: Callable[[Mapping[str, float]], float]


def ratio(part: str) -> Callable[[Mapping[str, float]], float]:
    """Full fine-tuning over LoRA."""
    return lambda stored: stored[f"full/{part}"] / stored[f"lora/{part}"]


def adapted_models(stored: Mapping[str, float]) -> float:
    """GB of the model and 100 of its adapters."""
    return (stored["full/checkpoint"] + 100 * stored["lora/checkpoint"]) / 1e9


MEASURES = {
    "L3": Measure("memory, full fine-tuning", "TB", lambda at: at["full/total"] / 1e12),
    "L2": Measure("memory, full / LoRA", "x", ratio("total")),
    "L15": Measure(
        "memory saved, up to", "", lambda at: 1 - at["lora/total"] / at["full/total"]
    ),
    "L4": Measure("memory, LoRA", "GB", lambda at: at["lora/total"] / 1e9),
    "L5": Measure("checkpoint, full", "GB", lambda at: at["full/checkpoint"] / 1e9),
    "L6": Measure("checkpoint, LoRA", "MB", lambda at: at["lora/checkpoint"] / 1e6),
    "L7": Measure("checkpoint, full / LoRA", "x", ratio("checkpoint")),
    "L8": Measure("100 adapted models", "GB", adapted_models),
}
# On the precision, which the paper does not say.
DEPENDENT = ("L2", "L3", "L15")


def section_4_2(by_precision: Mapping[str, Mapping[str, float]]) -> list[Published]:
    """The paper's numbers on GPT-3 175B beside ours, from `compare_with_lora`.

    Ours are those of FP16, or of the nearest precision where it matters. Without FP16
    there are no claims.
    """
    if HALF.name not in by_precision:
        return []
    published = paper.claims().published_value
    return [
        judge(claim, measure, published[claim], by_precision)
        for claim, measure in MEASURES.items()
    ]


def judge(
    claim: str,
    measure: Measure,
    value: Any,
    by_precision: Mapping[str, Mapping[str, float]],
) -> Published:
    """A claim of section 4.2, whose value is a number or a fraction such as `2/3`."""
    printed = (
        f"{value:g}" if isinstance(value, float) else f"{float(Fraction(value)):.2f}"
    )
    names = [HALF.name]
    if claim in DEPENDENT:
        names = [name for name in PRECISIONS if name in by_precision]
    values = {name: measure.compute(by_precision[name]) for name in names}
    nearest = min(values, key=lambda name: abs(values[name] - float(printed)))
    verdict = qlora_memory.judge_value(values[nearest], printed)
    if claim in DEPENDENT and verdict == "equal":
        verdict = "fitted"
    return Published(
        claim=claim,
        what=measure.title,
        paper=f"{printed} {measure.unit}".strip(),
        ours=f"{values[nearest]:.4g} {measure.unit}".strip(),
        precision=nearest,
        verdict=verdict,
    )


def verdicts(rows: list[schedule.Row]) -> list[Verdict]:
    """The papers' claims on GPT-3 175B and LLaMA."""
    found = section_4_2(stored(rows, "precision", architecture=GPT3))
    ours = [
        Verdict(
            "LoRA section 4.2",
            f"{at.what}: {at.paper} ({at.claim})",
            at.ours,
            at.verdict,
        )
        for at in found
    ]
    return ours + qlora_memory.verdicts(rows)


def published(rows: list[schedule.Row]) -> list[str]:
    """What training stores: GPT-3 175B beside the paper, then every architecture; nothing while rows are missing."""
    found, mixed = (
        stored(rows, "precision", architecture=GPT3),
        stored(rows, "architecture", precision=MIXED.name),
    )
    if len(found) < len(PRECISIONS):
        return []
    ways = [
        {
            "precision": name,
            "bytes each": PRECISIONS[name].trainable,
            "full, TB": at["full/total"] / 1e12,
            "full, TiB": at["full/total"] / 2**40,
            "LoRA, GB": at["lora/total"] / 1e9,
            "full / LoRA": at["full/total"] / at["lora/total"],
        }
        for name in PRECISIONS
        if (at := found[name])
    ]
    sizes = [
        {
            "model": name,
            "parameters": f"{at['full/parameters']:,.0f}",
            "LoRA's": f"{at['lora/parameters']:,.0f}",
            "full, GB": at["full/total"] / 1e9,
            "LoRA, GB": at["lora/total"] / 1e9,
            "full / LoRA": at["full/total"] / at["lora/total"],
            "checkpoint, full, MB": at["full/checkpoint"] / 1e6,
            "checkpoint, LoRA, MB": at["lora/checkpoint"] / 1e6,
        }
        for name in accounting.ARCHITECTURES
        if (at := mixed.get(name))
    ]
    assumed = ASSUMED.format(mixed[GPT3]["sequence/inputs_of_blocks"] / 1e9)
    tables = (
        results.markdown(pd.DataFrame(ways), digits=2),
        results.markdown(pd.DataFrame(section_4_2(found))),
    )
    right = {"parameters": "right", "LoRA's": "right"}
    return [
        assumed,
        *tables,
        FOUND,
        results.markdown(pd.DataFrame(sizes), digits=3, align=right),
    ]


ASSUMED = """## GPT-3 175B

The paper says 1.2 TB for full fine-tuning and 350 GB for LoRA, and not how it comes to them. What training with Adam stores, LoRA
being r = 4 on query and value, by precision; *bytes each*: of a parameter that learns. Activations are left out; the inputs of all
blocks, what checkpointing keeps, are {:.1f} GB in FP16 for one sequence of 2,048 tokens.
"""
FOUND = """*fitted*: as printed, by a precision chosen for it. None gives all. 1.2 TB are 6.9 bytes a parameter, between two: six,
for weights and moments in FP16, are 1.05 TB and give the 3 x and the 2/3; eight, with the gradient, are 1.40 TB or 1.27 TiB, and
4 x. The 350 GB are the frozen weights in FP16. LoRA's checkpoint of 18,874,368 numbers is 37.7 MB or 36.0 MiB.

Every architecture in FP16 with moments and a copy in FP32, LoRA again r = 4 on query and value, heads apart:
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile and count what is missing, and draw."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    path, made_with = config.out / f"{NAME}.jsonl", provenance.provenance()
    missing = results.pending(path, cells(config))
    steps = [cell for cell in missing if "model" in cell]
    check(steps)
    print(f"{len(steps)} steps to compile", flush=True)
    for cell in missing:
        began = time.monotonic()
        formula = llama_memory.step_bytes if "base" in cell else compare_with_lora
        metrics = step(cell) if cell in steps else formula(**cell)
        seconds = round(time.monotonic() - began, 3)
        results.record(
            path,
            {
                "config": cell,
                "metrics": metrics,
                "seconds": seconds,
                "provenance": made_with,
            },
        )
        if cell in steps:
            print(
                f"{cell['model']} {cell['length']} {cell['compute']} {label(cell)}: {seconds:.0f} s",
                flush=True,
            )
    print("wrote", *render(results.read(path), config.out))


if __name__ == "__main__":
    cli.script(main)
