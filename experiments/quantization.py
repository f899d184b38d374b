"""What a frozen base in few bits costs: QLoRA's Tables 2, 3 and 4 and Figure 3, in kind.

For each data type: how far the stored matrices are from the pretrained ones, what they take on disk and in a training step, how
long the step takes, and two scores. *Alone*: a model that was fine-tuned in full, quantised afterwards and not trained again, as
Table 2 and Figure 3 quantise pretrained models. *LoRA*: an adapter trained on the quantised pretrained base, as Tables 3 and 4.
Paper: Dettmers et al. 2023 (arXiv 2305.14314v1). It scores language models of 125M to 65B parameters by perplexity, MMLU and GLUE;
here it is a small encoder on film reviews: which data type is better compares, the scores do not. As there, products are
taken in bfloat16 (where the machine has it; float32 for fp32) whatever the matrices are stored in.

    python experiments/quantization.py
    python experiments/quantization.py --model DIRECTORY --types bf16 nf4-double
    python experiments/quantization.py --preset full                # all rows

Two cores (Zen 4): 21 LoRA trainings of a minute, 3 full fine-tunings of two, and a minute for the rest.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tyro.conf import OmitArgPrefixes

from lora_jax import methods, quant, results
from lora_jax.accounting import step_time
from lora_jax.accounting.storage import FORMATS, storage_metrics, store_base
from lora_jax.experiment import cli, run, schedule
from lora_jax.paper.qlora import scores_by_format
from lora_jax.quant.formats import CODECS
from lora_jax.results import plots
from lora_jax.results.claims import Verdict, as_good, effect

NAME = "quantization"
# The rows spell nf4_double with a hyphen.
TYPES = {name.replace("_", "-"): storage for name, storage in FORMATS.items()}


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: tiny random model, no network. quick: 2,000 rows. full: all rows."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them; trained models are kept in its folder adapters."""
    dry_run: bool = False
    """Only say what would run."""
    types: tuple[str, ...] = tuple(TYPES)
    """Data types of the base: fp32, bf16, int8, int4, fp4, nf4, nf4-double."""
    blocks: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048, 4096)
    """Block sizes to give the error of the 4-bit types for."""
    targets: str = "query,value"
    """LoRA's matrices."""
    rank: int = 8
    """LoRA's."""
    full_learning_rate: float = 1e-4
    """Full fine-tuning's; --learning-rate is LoRA's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    length: int = 64
    """Tokens of each row of the timed step; it has --batch rows."""
    steps: int = 20
    """Timed steps of each type, interleaved; the median counts."""
    setup: OmitArgPrefixes[run.Setup] = field(default_factory=run.Setup)


SMOKE = replace(run.SMOKE, batch=8)
PRESETS = {
    "smoke": Config(
        "smoke",
        Path("results/smoke"),
        types=("fp32", "nf4-double"),
        blocks=(32,),
        rank=2,
        seeds=(0,),
        length=16,
        steps=2,
        setup=SMOKE,
    ),
    "quick": Config(),
    "full": Config("full", setup=replace(run.SETUP, rows=0, validation_rows=0)),
}


def check(config: Config) -> None:
    """Raises one ValueError with every setting that is wrong."""
    wrong = [
        f"types: expected some of {', '.join(TYPES)}, got {t!r}"
        for t in config.types
        if t not in TYPES
    ]
    wrong += [] if config.types else ["types: expected at least one"]
    wrong += [
        f"blocks: expected powers of two from 32 to 4096, got {b}"
        for b in config.blocks
        if b not in quant.BLOCKS
    ]
    for name, got, expected in (
        ("method", config.setup.method, "lora"),
        ("quantize", config.setup.quantize, "none"),
    ):
        if got != expected:
            wrong.append(
                f"{name}: expected {expected} (this study sets it by its types), got {got!r}"
            )
    wrong += [
        f"{name}: expected 1 or more, got {got}"
        for name in ("length", "steps")
        if (got := getattr(config, name)) < 1
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def loras(config: Config) -> list[schedule.Row]:
    """The cells of LoRA on each type and seed."""
    shared = {**asdict(config.setup), "targets": config.targets, "rank": config.rank}
    how = {
        name: {"quantize": TYPES[name].quantize, "compute": TYPES[name].compute}
        for name in config.types
    }
    return [
        {**shared, **how[name], "seed": seed}
        for name in dict.fromkeys(config.types)
        for seed in config.seeds
    ]


def fulls(config: Config) -> list[schedule.Row]:
    """The cells of full fine-tuning, one for each seed."""
    full = replace(config.setup, method="full", learning_rate=config.full_learning_rate)
    return [
        {**asdict(full), "targets": ".", "rank": 0, "seed": seed}
        for seed in config.seeds
    ]


def label(cell: schedule.Row) -> str:
    """The training in a line of progress."""
    if cell["method"] == "full":
        return f"full fine-tuning seed={cell['seed']}"
    base = cell["quantize"] if cell["quantize"] != "none" else cell["compute"]
    return f"LoRA on {base} seed={cell['seed']}"


def measure(
    config: Config, cells: Sequence[schedule.Row], model: Any
) -> list[schedule.Row]:
    """A row for each type's training step, timed in turn."""
    method = methods.lora(config.targets, config.rank)
    shape = {"batch": config.setup.batch, "length": config.length}
    steps = [
        step_time.compile_step(
            store_base(model, TYPES[cell["type"]]),
            method,
            **shape,
            compute_dtype=TYPES[cell["type"]].compute_dtype,
        )
        for cell in cells
    ]
    seconds = step_time.time_in_turn(steps, config.steps)
    return [
        {
            "config": cell,
            "seconds": taken,
            "provenance": run.began(),
            "metrics": {
                "step/seconds": statistics.median(taken),
                "step/peak": step.sizes["peak"],
                "step/temporary": step.sizes["temporary"],
            },
        }
        for cell, step, taken in zip(cells, steps, seconds, strict=True)
    ]


def scored(trained: schedule.Trained, config: schedule.Row) -> schedule.Row:
    """The row of a trained model in a data type: LoRA's as its training has it, full fine-tuning's quantised first."""
    row, name = trained.row, config["type"]
    metrics = {
        key: value
        for key, value in row["metrics"].items()
        if not key.startswith("validation/")
    }
    if config["part"] == "alone":
        cell = {**row["config"], "compute": TYPES[name].compute_dtype}
        model = store_base(trained.model, TYPES[name])
        splits = {key.partition("/")[0] for key in metrics} or {"validation"}
        found = {split: run.score(cell, model, split) for split in sorted(splits)}
        metrics = {
            f"{split}/{key}": value
            for split, said in found.items()
            for key, value in said.items()
        }
    shown = {
        "examples": row["examples"],
        "trained": row["metrics"],
        "provenance": run.began(),
    }
    return {"config": config, "metrics": metrics or row["metrics"], **shown}


def points(
    config: Config, trainings: Sequence[schedule.Row]
) -> dict[str, list[schedule.Row]]:
    """The configurations of the rows, by part: `alone` and `lora` are scores, `sizes` and `step` are of one type each."""
    types, first = list(dict.fromkeys(config.types)), trainings[0]
    of = {name: first[name] for name in ("model", "model_source")}
    shape = {
        "batch": config.setup.batch,
        "length": config.length,
        "targets": config.targets,
        "rank": config.rank,
    }
    four = [
        t
        for t in types
        if (how := quant.FORMATS.get(TYPES[t].quantize)) and CODECS[how.codec].bits == 4
    ]
    blocked = [(t, None) for t in types] + [(t, b) for t in four for b in config.blocks]
    type_of = {(TYPES[t].quantize, TYPES[t].compute_dtype): t for t in types}
    return {
        "alone": [
            {**cell, "part": "alone", "type": t}
            for cell in trainings
            if cell["method"] == "full"
            for t in types
        ],
        "lora": [
            {**cell, "part": "lora", "type": type_of[cell["quantize"], cell["compute"]]}
            for cell in trainings
            if cell["method"] == "lora"
        ],
        "sizes": [{**of, "part": "sizes", "type": t, "block": b} for t, b in blocked],
        "step": [
            {**of, **shape, "part": "step", "type": t, "steps": config.steps}
            for t in types
        ],
    }


HEADER = """# Data types of a frozen base

Made by `python experiments/quantization.py` from the rows of `quantization.jsonl`. The matrices of the blocks are stored in the
data type, everything else stays as it was; products are taken in bfloat16 where the machine has it, of fp32 in float32.

- *bits*: stored for each number of those matrices, scales included. *disk* and *memory*: of the whole model, as a safetensors file
  and as arrays. *weight error*: ||W - W'|| / ||W|| over all those matrices.
- *step*: median time of a LoRA training step; *peak*: the memory XLA says it takes on one device.
- *alone*: a model fine-tuned in full, quantised afterwards. *LoRA*: trained on the quantised pretrained base; \u0394 against fp32.
"""
SMOKE_SAID = "**A smoke run of a random model: its numbers mean nothing.**\n\n"


def of(rows: Sequence[schedule.Row], part: str) -> list[schedule.Row]:
    """The rows of one part."""
    return [row for row in rows if row["config"]["part"] == part]


def by_type(rows: Sequence[schedule.Row]) -> dict[str, dict[str, float]]:
    """The metrics of the rows, which are one to a type."""
    return {row["config"]["type"]: row["metrics"] for row in rows}


def scores(rows: Sequence[schedule.Row]) -> dict[str, tuple[float, float]]:
    """(score in %, its standard error) by type."""
    if not rows:
        return {}
    table = results.summary(rows, by=["type"], metric=schedule.primary(rows[0]))
    return {
        str(at["type"]): (100 * at["mean"], 100 * at["error"])
        for at in table.to_dict("records")
    }


def by_model(rows: Sequence[schedule.Row]) -> dict[str, list[schedule.Row]]:
    """The rows of each model, in an order that depends on the rows alone."""
    models = dict.fromkeys(
        row["config"]["model"] for row in sorted(rows, key=lambda row: row["key"])
    )
    return {
        model: [row for row in rows if row["config"]["model"] == model]
        for model in models
    }


def groups(rows: Sequence[schedule.Row]) -> list[list[schedule.Row]]:
    """Rows of one model and setting, in all data types."""
    return schedule.groups(rows, but=("type", "seed", "quantize", "compute"))


def summary(rows: Sequence[schedule.Row]) -> pd.DataFrame:
    """A line for each data type, of the first (largest) group of each part."""
    parts = {
        part: (groups(of(rows, part)) or [[]])[0] for part in ("alone", "lora", "step")
    }
    size = by_type([row for row in of(rows, "sizes") if row["config"]["block"] is None])
    step, alone, lora = (
        by_type(parts["step"]),
        scores(parts["alone"]),
        scores(parts["lora"]),
    )
    lines = []
    for name in (name for name in TYPES if name in size):
        at = {
            "type": name,
            "bits": size[name]["size/bits"],
            "weight error": size[name]["error/relative"],
        }
        at |= {
            "disk, MB": size[name]["size/disk"] / 1e6,
            "memory, MB": size[name]["size/memory"] / 1e6,
        }
        if name in step:
            at |= {
                "step, ms": 1e3 * step[name]["step/seconds"],
                "peak, MB": step[name]["step/peak"] / 1e6,
            }
        for said, found in (("alone", alone), ("LoRA", lora)):
            at |= (
                {said: found[name][0], f"{said} error": found[name][1]}
                if name in found
                else {}
            )
        lines.append(at)
    return pd.DataFrame(lines)


def shown(table: pd.DataFrame) -> str:
    """The table as people read it."""
    made = table.drop(
        columns=[name for name in ("alone error", "LoRA error") if name in table]
    )
    for name in ("alone", "LoRA"):
        if name in table:
            made[name] = [
                f"{s:.1f} ± {e:.1f}" if s == s else ""
                for s, e in zip(table[name], table[f"{name} error"], strict=True)
            ]
    if "LoRA" in table and "fp32" in set(table["type"]):
        made["Δ"] = [
            f"{d:+.1f}" for d in table["LoRA"] - table.set_index("type")["LoRA"]["fp32"]
        ]
    digits = {
        "bits": 3,
        "weight error": 4,
        "disk, MB": 1,
        "memory, MB": 1,
        "step, ms": 0,
        "peak, MB": 0,
    }
    right = dict.fromkeys(("alone", "LoRA", "Δ"), "right")
    return results.markdown(
        made, digits=digits, align={k: v for k, v in right.items() if k in made}
    )


def by_block(rows: Sequence[schedule.Row]) -> pd.DataFrame:
    """A line for each block size: bits and error of each 4-bit type."""
    found: dict[int, dict[str, Any]] = {}
    for row in of(rows, "sizes"):
        if block := row["config"]["block"]:
            line, name = (
                found.setdefault(block, {"block": block}),
                row["config"]["type"],
            )
            line |= {
                f"{name}, bits": row["metrics"]["size/bits"],
                f"{name}, error": row["metrics"]["error/relative"],
            }
    return pd.DataFrame([found[block] for block in sorted(found)])


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """Draw out/quantization.md, .csv and .png from the rows alone; of several models, one after the other."""
    parts, tables = [], []
    for model, mine in by_model(rows).items():
        tables.append(summary(mine).assign(model=model))
        scored_on = next((f", {row['config']['data']}" for row in of(mine, "lora")), "")
        parts.append(
            f"## {model}{scored_on}\n\n{SMOKE_SAID * (model == 'tiny')}{shown(tables[-1].drop(columns='model'))}"
        )
        if not (blocks := by_block(mine)).empty:
            digits = {
                name: 3 if name.endswith("bits") else 4 for name in blocks.columns[1:]
            }
            parts.append(
                f"### By block size\n\n{results.markdown(blocks, digits=digits)}"
            )
    paper_said = "## The paper's values\n\nOf other models and tasks: **a trend**. Lower perplexity is better.\n"
    markdown = "\n".join([HEADER, *parts, paper_said, results.markdown(published())])
    drawn = figure(tables[0]) if {"alone", "LoRA"} & set(tables[0]) else None
    return results.render(
        out / NAME, markdown=markdown, table=pd.concat(tables), figure=drawn
    )


def published() -> pd.DataFrame:
    """The paper's own values by our data types."""
    scores = scores_by_format().rename(columns={"format": "type"})
    return scores.assign(type=scores["type"].str.replace("_", "-"))


def figure(table: pd.DataFrame):
    """Both scores of each data type."""
    names = [
        f"{name}\n{bits:.3g} bits"
        for name, bits in zip(table["type"], table.bits, strict=True)
    ]
    series: Any = {
        said: (names, table[column], table[f"{column} error"])
        for said, column in (
            ("fine-tuned, then quantised", "alone"),
            ("LoRA on the quantised base", "LoRA"),
        )
        if column in table
    }
    values = np.concatenate([np.asarray(y, float) for _, y, _ in series.values()])
    low = max(0.0, 5 * np.floor((np.nanmin(values) - 3) / 5))
    return plots.bars_with_errors(
        series,
        title=table.model.iloc[0],
        xlabel="data type of the blocks' matrices",
        ylabel="score, %",
        ylim=(float(low), float(np.nanmax(values) + 2)),
    )


def verdicts(rows: list[schedule.Row]) -> list[Verdict]:
    """The paper's findings about data types, looked for in the first model's rows."""
    table: Any = summary(next(iter(by_model(rows).values()))).set_index("type")
    found = []

    def compare(
        where: str, said: str, column: str, better: str, worse: str, judge: Any
    ) -> None:
        if column in table and {better, worse} <= set(
            table.index[table[column].notna()]
        ):
            (a, ea), (b, eb) = (
                (table[column][t], table[f"{column} error"][t]) for t in (better, worse)
            )
            ours = f"{a:.1f} ± {ea:.1f} against {b:.1f} ± {eb:.1f} %"
            found.append(
                Verdict(where, said, ours, judge(a, b, (ea**2 + eb**2) ** 0.5))
            )

    def above(a: float, b: float, error: float) -> str:
        return effect(a - b, error)

    compare(
        "QLoRA Table 2",
        "without training NF4 + DQ is better than FP4",
        "alone",
        "nf4-double",
        "fp4",
        above,
    )
    compare(
        "QLoRA Table 2",
        "without training FP4 is better than Int4",
        "alone",
        "fp4",
        "int4",
        above,
    )
    compare(
        "QLoRA Table 3",
        "LoRA on Int8 is as good as on BF16",
        "LoRA",
        "int8",
        "bf16",
        as_good,
    )
    compare(
        "QLoRA Tables 3, 4",
        "LoRA on NF4 + DQ is as good as on BF16",
        "LoRA",
        "nf4-double",
        "bf16",
        as_good,
    )
    compare(
        "QLoRA Table 4 (Q15)",
        "LoRA on FP4 is worse than on NF4 + DQ",
        "LoRA",
        "nf4-double",
        "fp4",
        above,
    )
    compare(
        "QLoRA section 4",
        "double quantisation costs nothing",
        "LoRA",
        "nf4-double",
        "nf4",
        as_good,
    )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure and score what is missing, and draw."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    check(config)
    path, trainings = (
        config.out / f"{NAME}.jsonl",
        schedule.resolved([*fulls(config), *loras(config)]),
    )
    counts = schedule.check(trainings)
    missing = {
        part: results.pending(path, wanted)
        for part, wanted in points(config, trainings).items()
    }
    print(
        ", ".join(f"{part}: {len(todo)} to do" for part, todo in missing.items()),
        flush=True,
    )
    if config.dry_run:
        return print(
            schedule.plan(
                trainings, schedule.untrained(config.out, trainings), counts, label
            )
        )
    base = run.bench(trainings[0]).model
    for at in missing["sizes"]:
        metrics = storage_metrics(base, TYPES[at["type"]], at["block"])
        results.record(
            path, {"config": at, "metrics": metrics, "provenance": run.began()}
        )
    for row in measure(config, missing["step"], base) if missing["step"] else []:
        results.record(path, row)
    todo = [*missing["alone"], *missing["lora"]]
    learnt = [
        {name: value for name, value in at.items() if name not in ("part", "type")}
        for at in todo
    ]
    for at, trained in zip(
        todo, schedule.trained(config.out, learnt, label), strict=True
    ):
        results.record(path, scored(trained, at))
    print("wrote", *render(results.read(path), config.out))


if __name__ == "__main__":
    cli.script(main)
