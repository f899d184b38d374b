"""LoRA Tables 6 and 18: which rank is enough, for which attention matrices?

Trains {query}, {query, value} and {query, key, value, output} at r = 1, 2, 4, 8, 64 and draws the test score against r.
Paper: Hu et al. 2021 (arXiv 2106.09685v2), section 7.1, Table 6: GPT-3 175B on WikiSQL and MultiNLI, which no laptop repeats. Ours
is a sentence encoder of 22.7 M parameters on film reviews: what can be compared is the trend, not the numbers.

    python experiments/rank_sweep.py                                  # quick: 15 cells
    python experiments/rank_sweep.py --preset full                    # all rows, three seeds
    python experiments/rank_sweep.py --model DIR --data FILE.csv      # yours
    python experiments/rank_sweep.py --task e2e --data-dir ZIP        # Table 18 in kind: SmolLM2-135M writes from data
    python experiments/rank_sweep.py --preset paper --dry-run         # RoBERTa-base, MNLI and SST-2, the values of Table 9
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tyro.conf import OmitArgPrefixes

from lora_jax import methods, paper, results
from lora_jax.experiment import cli, run, schedule
from lora_jax.results import plots, rank_tables
from lora_jax.results.claims import Verdict, as_good, effect

NAME = "rank_sweep"
TARGETS = ("query", "query,value", "query,key,value,output")
IN_PAPER = dict(zip(TARGETS, ("Wq", "Wq,Wv", "Wq,Wk,Wv,Wo"), strict=True))


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full", "paper"] = "quick"
    """smoke: tiny random model, no network. quick: 2,000 rows. full: all rows, 3 seeds. paper: RoBERTa-base on GLUE."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them."""
    dry_run: bool = False
    """Only say what would run."""
    keep: bool = True
    """Keep what each cell learns in OUT/adapters, for the analyses: a few hundred kB a cell with LoRA."""
    targets: tuple[str, ...] = TARGETS
    """Sets of matrices to adapt: names joined by commas, or regexes on paths."""
    ranks: tuple[int, ...] = (1, 2, 4, 8, 64)
    seeds: tuple[int, ...] = (0,)
    tasks: tuple[str, ...] = ()
    """Several tasks instead of --data."""
    task: str = ""
    """A task that generates text, as e2e (Table 18). The presets are then a language model's, as in nlg.py, with r = 1, 4, 16."""
    setup: OmitArgPrefixes[run.Setup] = field(default_factory=run.Setup)


PAPER = run.Setup(
    model="roberta-base",
    rows=0,
    validation_rows=0,
    max_length=512,
    alpha=8,
    learning_rate=5e-4,
    epochs=0,
    batch=16,
    weight_decay=0.1,
    hidden_dropout=0.1,
    clip=1.0,
    warmup=0.06,
)
PRESETS = {
    "smoke": Config("smoke", Path("results/smoke"), ranks=(1, 2), setup=run.SMOKE),
    "quick": Config(),
    "full": Config(
        "full", seeds=(0, 1, 2), setup=replace(run.SETUP, rows=0, validation_rows=0)
    ),
    "paper": Config(
        "paper", tasks=("mnli", "sst2"), seeds=(0, 1, 2, 3, 4), setup=PAPER
    ),
}


WRITING = {  # with --task; Table 18 is of query and value alone
    "smoke": Config(
        "smoke",
        Path("results/smoke"),
        targets=TARGETS[1:2],
        ranks=(1, 2),
        setup=run.NLG_SMOKE,
    ),
    "quick": Config(targets=TARGETS[1:2], ranks=(1, 4, 16), setup=run.NLG),
    "full": Config(
        "full", targets=TARGETS[1:2], ranks=(1, 2, 4, 8, 16, 64), setup=run.NLG_FULL
    ),
    "paper": Config(
        "paper",
        targets=TARGETS[1:2],
        ranks=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        setup=run.NLG_PAPER,
    ),
}


HEADER = """# Rank sweep

The question of LoRA's Table 6: which rank is enough, for which attention matrices? Made by `python experiments/rank_sweep.py`
from the rows of `rank_sweep.jsonl`. The paper's numbers are of GPT-3 175B on WikiSQL and MultiNLI: **compare the trend, not
the values**.
"""
GLUE = {
    "mnli": "MNLI",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "cola": "CoLA",
    "qnli": "QNLI",
    "qqp": "QQP",
    "rte": "RTE",
    "stsb": "STS-B",
}


def cells(config: Config) -> list[schedule.Row]:
    """One cell for each task, seed, set of targets and rank; epochs 0 means Table 9's for the task.

    Raises:
        ValueError: data is given twice, or several values of what the method does not take.
    """
    presets = WRITING if config.task else PRESETS
    data = (
        config.setup.data
        if config.setup.data != presets[config.preset].setup.data
        else ""
    )
    if sum(map(bool, (config.task, config.tasks, data))) > 1:
        given = ", ".join(filter(None, (config.task, *config.tasks, data)))
        raise ValueError(f"expected one of --task, --tasks and --data, got {given}")
    taken = (
        () if config.setup.method == run.NONE else methods.options(config.setup.method)
    )
    for option, flag, values in (
        ("rank", "--ranks", config.ranks),
        ("targets", "--targets", config.targets),
    ):
        if option not in taken and len(values) > 1:
            got = " ".join(map(str, values))
            raise ValueError(
                f"{flag}: {config.setup.method} takes no {option}: expected one value, got {got}"
            )
    if config.task:
        setup = replace(config.setup, data=config.task)
        config = replace(
            config, setup=setup if config.preset == "paper" else run.had(setup)
        )
    return [
        {
            **asdict(config.setup),
            "data": task,
            "epochs": config.setup.epochs or table9_epochs(task),
            "targets": targets,
            "rank": rank,
            "seed": seed,
        }
        for task in config.tasks or (config.setup.data,)
        for seed in config.seeds
        for targets in config.targets
        for rank in config.ranks
    ]


def table9_epochs(task: str) -> int:
    """The paper's epochs for RoBERTa-base with LoRA on a GLUE task.

    Raises:
        ValueError: Table 9 does not have the task.
    """
    table: Any = paper.table("lora_table9_roberta_hparams")
    rows = table[
        (table.model == "RoBERTa-base")
        & (table.method == "LoRA")
        & (table.hparam == "epochs")
    ]
    found = rows[rows.dataset == GLUE.get(task)]
    if found.empty:
        raise ValueError(
            f"epochs: expected 1 or more; 0 takes Table 9's, which has {', '.join(GLUE)} but not {task!r}"
        )
    return int(found.value.iloc[0])


def label(cell: schedule.Row) -> str:
    """The cell in a line of progress."""
    return f"{cell['data']} {cell['targets']} r={cell['rank']} seed={cell['seed']}"


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """Draw out/rank_sweep.md, .csv and .png from the rows alone: ours, and the paper's Table 6 beside it."""
    groups = schedule.groups(rows, but=("targets", "rank", "seed"))
    tables = [
        (rank_tables.table if "written" in group[0] else summary)(group)
        for group in groups
    ]
    said = schedule.apart(groups)
    sections = [
        (rank_tables.section if "written" in each[0][0] else section)(*each)
        for each in zip(groups, tables, said, strict=True)
    ]
    published = "## The paper's Table 6 (GPT-3 175B)\n\n" + "\n".join(
        f"{data}, accuracy in %\n\n{results.markdown(wide(published_table(data), 'value'), digits=1)}"
        for data in DATASETS
    )
    markdown = "\n".join([HEADER, *sections, published])
    every = pd.concat(
        [
            table.assign(settings=of[2:]) if of else table
            for table, of in zip(tables, said, strict=True)
        ]
    )
    return results.render(
        out / NAME, markdown=markdown, table=every, figure=figure(groups[0], tables[0])
    )


SMOKE = "**A smoke run of a random model: its numbers mean nothing.**\n\n"
DATASETS = ("WikiSQL", "MultiNLI")


def published_table(data: str) -> pd.DataFrame:
    """Table 6 of the paper for one data set, its matrices under our names."""
    table = paper.table("lora_table6_rank").query("dataset == @data")
    ours = {name: targets for targets, name in IN_PAPER.items()}
    return table.assign(targets=table.weight_type.map(ours), rank=table.r.astype(int))


def summary(group: list[schedule.Row]) -> pd.DataFrame:
    """One line for each set of targets and rank: parameters, score in %, its standard error, seeds; the paper's."""
    metric = schedule.primary(group[0])
    table = results.summary(group, by=["targets", "rank"], metric=metric)
    first = {(row["config"]["targets"], row["config"]["rank"]): row for row in group}
    lines = [first[cell] for cell in zip(table.targets, table["rank"], strict=True)]
    said = {
        name: [row["config"][name] for row in lines]
        for name in ("data", "model", "method")
    }
    said |= {
        "targets": table.targets,
        "rank": table["rank"],
        "parameters": [row["parameters"]["adapter"] for row in lines],
    }
    scores = {
        "metric": metric,
        "score": 100 * table["mean"],
        "error": 100 * table.error,
        "error of": table.error_kind,
    }
    made = pd.DataFrame({**said, **scores, "seeds": table["count"]})
    for data in DATASETS:
        value = published_table(data).set_index(["targets", "rank"]).value
        made[f"paper {data}"] = [
            value.get(cell, np.nan)
            for cell in zip(made.targets, made["rank"], strict=True)
        ]
    made["order"] = [
        TARGETS.index(name) if name in TARGETS else len(TARGETS)
        for name in made.targets
    ]
    return made.sort_values(["order", "targets", "rank"], ignore_index=True).drop(
        columns="order"
    )


def wide(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """As in the paper: a line for each set of targets, a column for each rank."""
    order = list(dict.fromkeys(table.targets))
    spread = table.pivot(index="targets", columns="rank", values=column).loc[order]
    return (
        spread.rename(columns=lambda rank: f"r = {rank}")
        .rename_axis(columns=None)
        .reset_index()
    )


def section(group: list[schedule.Row], table: pd.DataFrame, apart: str) -> str:
    """The tables of one group of rows: everything but targets, rank and seed alike."""
    config, metric = group[0]["config"], schedule.primary(group[0])
    split = metric.partition("/")[0]
    n, seeds = (
        group[0]["examples"][split],
        sorted({row["config"]["seed"] for row in group}),
    )
    cell = [
        f"{score:.1f}" + ("" if np.isnan(error) else f" ± {error:.1f}")
        for score, error in zip(table.score, table.error, strict=True)
    ]
    shown = wide(table.assign(cell=cell), "cell")
    sizes = wide(
        table.assign(parameters=[f"{size:,}" for size in table.parameters]),
        "parameters",
    )
    settings = ", ".join(
        f"{k} {v}"
        for k, v in config.items()
        if k not in ("targets", "rank", "seed", "data_source")
    )
    said = f"; ± is the {error}" if (error := ERRORS[table["error of"].iloc[0]]) else ""
    smoke = SMOKE if config["model"] == "tiny" else ""
    right = {name: "right" for name in shown.columns[1:]}
    return (
        f"## {config['data']}, {config['model']}{apart}\n\n"
        f"{smoke}{metric} in %, {n:,} examples, seeds {seeds}{said}.\n\n"
        f"{results.markdown(shown, align=right)}\n"
        f"Learning parameters of the adapter (the head's {group[0]['parameters']['head']:,} apart):\n\n"
        f"{results.markdown(sizes, align=right)}\n"
        f"{finding(table)}\n\n<details><summary>Settings</summary>\n\n{settings}\n\n"
        f"Data: {config['data_source']}\n\n</details>\n"
    )


ERRORS = {
    "seeds": "standard error over seeds",
    "binomial": "binomial standard error of one seed",
    "none": "",
}


def finding(table: pd.DataFrame) -> str:
    """What the table shows, in the paper's terms: the mean over ranks for each set of targets, ours and the paper's."""
    columns = ["score", *(f"paper {data}" for data in DATASETS)]
    by: Any = table.groupby("targets", sort=False)[columns]
    means = by.mean().reset_index()
    means = means.rename(
        columns={"score": "ours", **{name: f"{name} (GPT-3)" for name in columns[1:]}}
    )
    return f"Mean over these ranks, in %:\n\n{results.markdown(means, digits={name: 1 for name in means.columns[1:]})}"


def verdicts(rows: list[schedule.Row]) -> list[Verdict]:
    """The effects of Table 6, looked for in the largest group of rows alike: the choice of matrices matters, the rank little."""
    rows = [row for row in rows if "written" not in row]
    if not rows:
        return []
    table: Any = summary(schedule.groups(rows, but=("targets", "rank", "seed"))[0])
    parts = {
        targets: part.set_index("rank") for targets, part in table.groupby("targets")
    }
    found = []
    for more, fewer in (TARGETS[1::-1], TARGETS[:0:-1]):
        if {more, fewer} <= parts.keys():
            a, b = parts[more], parts[fewer]
            error = float(
                np.sqrt(
                    (a.error**2).sum() / len(a) ** 2 + (b.error**2).sum() / len(b) ** 2
                )
            )
            said = f"{a.score.mean():.1f} against {b.score.mean():.1f} ± {error:.1f} %"
            verdict = effect(a.score.mean() - b.score.mean(), error)
            found.append(
                Verdict(
                    "LoRA Table 6",
                    f"{{{more}}} is above {{{fewer}}}, mean over ranks",
                    said,
                    verdict,
                )
            )
    for targets, part in parts.items():
        first, last, error = (
            part.score.iloc[0],
            part.score.iloc[-1],
            float(np.hypot(*part.error.iloc[[0, -1]])),
        )
        said = f"{first:.1f} against {last:.1f} ± {error:.1f} %"
        what = f"r = {part.index[0]} does as well as r = {part.index[-1]} with {{{targets}}}"
        found.append(Verdict("LoRA Table 6", what, said, as_good(first, last, error)))
    return found


def figure(group: list[schedule.Row], table: pd.DataFrame):
    """Score against r for each set of targets, with error bars; the paper's two panels beside it."""

    def lines(table: Any, score: str, error: str) -> Any:
        each = {
            targets: table[table.targets == targets]
            for targets in dict.fromkeys(table.targets)
        }
        return {
            targets: (part["rank"], part[score], part[error])
            for targets, part in each.items()
        }

    if "written" in group[0]:
        return rank_tables.figure(group, table)
    config, metric = group[0]["config"], schedule.primary(group[0])
    beside = [
        plots.Panel(
            lines(published_table(data), "value", "std"),
            f"Paper: GPT-3 175B, {data}",
            "accuracy, %",
        )
        for data in DATASETS
    ]
    return plots.lines_with_errors(
        lines(table, "score", "error"),
        title=f"{config['model']}, {config['data']}",
        xlabel="rank r",
        ylabel=f"{metric}, %",
        beside=beside,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and draw everything."""
    presets = PRESETS if cli.value("--task", arguments) is None else WRITING
    config = cli.line(Config, presets, __doc__, arguments)
    schedule.run(
        NAME,
        config.out,
        cells(config),
        label,
        render,
        dry_run=config.dry_run,
        keep=config.keep,
    )


if __name__ == "__main__":
    cli.script(main, cores=cli.value("--task") is None)
