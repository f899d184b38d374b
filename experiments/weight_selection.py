"""LoRA Table 5: given a budget of parameters, which attention matrices should be adapted?

Trains {q}, {k}, {v}, {o}, {q, k}, {q, v} and {q, k, v, o}, each at the highest rank whose parameters the budget pays for.
Paper: Hu et al. 2021 (arXiv 2106.09685v2), section 7.1, Table 5: GPT-3 175B, 18M parameters (r = 8 on one matrix of each block) on
WikiSQL and MultiNLI. Ours is a sentence encoder of 22.7 M parameters on film reviews: compare the order, not the numbers.

    python experiments/weight_selection.py                            # quick: 21 cells of about 45 s on two cores
    python experiments/weight_selection.py --budget 73728             # another budget
    python experiments/weight_selection.py --preset full              # all rows, five seeds
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tyro.conf import OmitArgPrefixes

from lora_jax import accounting, paper, results
from lora_jax.experiment import cli, run, schedule
from lora_jax.results import plots
from lora_jax.results.claims import Verdict, effect

NAME = "weight_selection"
IN_PAPER = {
    "query": "Wq",
    "key": "Wk",
    "value": "Wv",
    "output": "Wo",
    "query,key": "Wq,Wk",
    "query,value": "Wq,Wv",
    "query,key,value,output": "Wq,Wk,Wv,Wo",
}
BOTH = "query,value"  # the paper: "adapting both Wq and Wv gives the best performance overall"
DATASETS = ("WikiSQL", "MultiNLI")


@dataclass(frozen=True)
class Config:
    """Every flag has the value of the preset unless given."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    """smoke: tiny random model, no network. quick: 2,000 rows, 3 seeds. full: all rows, 5 seeds."""
    out: Path = Path("results")
    """Folder of the rows and of what is drawn from them."""
    dry_run: bool = False
    """Only say what would run."""
    budget: int = 0
    """Learning parameters of the adapter, the head's apart. 0: what r = 8 on one attention matrix costs."""
    targets: tuple[str, ...] = tuple(IN_PAPER)
    """Sets of matrices to adapt: names joined by commas, or regexes on paths."""
    seeds: tuple[int, ...] = (0, 1, 2)
    setup: OmitArgPrefixes[run.Setup] = field(default_factory=run.Setup)


PRESETS = {
    "smoke": Config("smoke", Path("results/smoke"), seeds=(0, 1), setup=run.SMOKE),
    "quick": Config(),
    "full": Config(
        "full",
        seeds=(0, 1, 2, 3, 4),
        setup=replace(run.SETUP, rows=0, validation_rows=0),
    ),
}


def cells(config: Config) -> list[schedule.Row]:
    """One cell for each seed and set of matrices, with the highest rank within the budget.

    Raises:
        ValueError: the budget does not pay for r = 1 of a set, with what that costs; or the method has no rank.
    """
    setup = asdict(config.setup)
    drafts = schedule.resolved(
        [
            {**setup, "targets": targets, "rank": 1, "seed": 0}
            for targets in config.targets
        ]
    )
    one, two = (costs([{**draft, "rank": rank} for draft in drafts]) for rank in (1, 2))
    if any(two[targets] <= cost for targets, cost in one.items()):
        raise ValueError(
            f"method: expected one with a rank to choose, as lora, got {config.setup.method}"
        )
    budget = (
        config.budget or costs([{**drafts[0], "targets": "query", "rank": 8}])["query"]
    )
    if poor := [
        f"{one[targets]:,} for {targets}" for targets in one if one[targets] > budget
    ]:
        raise ValueError(
            f"budget: expected at least what r = 1 costs ({', '.join(poor)}), got {budget:,}"
        )
    rank = {
        targets: accounting.affordable_rank(budget, cost, two[targets])
        for targets, cost in one.items()
    }
    try:
        schedule.check([{**draft, "rank": rank[draft["targets"]]} for draft in drafts])
    except ValueError as error:
        raise ValueError(
            f"budget: {budget:,} is more than the matrices can hold ({error})"
        ) from None
    return [
        {
            **setup,
            "budget": budget,
            "targets": targets,
            "rank": rank[targets],
            "seed": seed,
        }
        for seed in config.seeds
        for targets in one
    ]


def costs(drafts: list[schedule.Row]) -> dict[str, int]:
    """The adapter's learning parameters by set of matrices."""
    return {
        draft["targets"]: count.adapter
        for draft, count in zip(drafts, schedule.check(drafts), strict=True)
    }


def label(cell: schedule.Row) -> str:
    """The cell in a line of progress."""
    return f"{cell['targets']} r={cell['rank']} seed={cell['seed']}"


HEADER = """# Which matrices to adapt, given a budget

The question of LoRA's Table 5. Made by `python experiments/weight_selection.py` from the rows of `weight_selection.jsonl`. The
paper's numbers are of GPT-3 175B on WikiSQL and MultiNLI, accuracy in % and its standard deviation: **compare the order, not the
values**.
"""
SMOKE = "**A smoke run of a random model: its numbers mean nothing.**\n\n"
ERRORS = {
    "seeds": "; ± is the standard error over seeds",
    "binomial": "; ± is the binomial standard error of one seed",
    "none": "",
}


def render(rows: list[schedule.Row], out: Path) -> list[Path]:
    """Draw out/weight_selection.md, .csv and .png from the rows alone: ours, and the paper's Table 5 beside it."""
    groups = schedule.groups(rows, but=("targets", "rank", "seed"))
    tables = [summary(group) for group in groups]
    said = schedule.apart(groups)
    sections = [section(*each) for each in zip(groups, tables, said, strict=True)]
    markdown = "\n".join([HEADER, *sections])
    every = pd.concat(
        [
            table.assign(settings=of[2:]) if of else table
            for table, of in zip(tables, said, strict=True)
        ]
    )
    return results.render(
        out / NAME, markdown=markdown, table=every, figure=figure(tables[0])
    )


def published(data: str) -> pd.DataFrame:
    """The paper's value, std and r on one data set, by our name of the matrices."""
    table: Any = (
        paper.table("lora_table5_weight_types")
        .query("dataset == @data")
        .set_index("weight_type")
    )
    return table.rename({name: targets for targets, name in IN_PAPER.items()})[
        ["value", "std", "r"]
    ]


def summary(group: list[schedule.Row]) -> pd.DataFrame:
    """One line for each set of matrices: rank, parameters, score in %, its standard error, seeds; the paper's."""
    config, metric = group[0]["config"], schedule.primary(group[0])
    table = results.summary(group, by=["targets", "rank"], metric=metric)
    size = {row["config"]["targets"]: row["parameters"]["adapter"] for row in group}
    said = {name: config[name] for name in ("data", "model", "method", "budget")}
    cell = {
        "targets": table.targets,
        "rank": table["rank"],
        "parameters": table.targets.map(size),
    }
    scores = {
        "metric": metric,
        "score": 100 * table["mean"],
        "error": 100 * table.error,
        "error of": table.error_kind,
    }
    made = pd.DataFrame({**said, **cell, **scores, "seeds": table["count"]})
    for data in DATASETS:
        there = published(data).reindex(made.targets)
        made[f"paper {data}"], made[f"paper {data} std"] = (
            there.value.to_numpy(),
            there["std"].to_numpy(),
        )
    known = list(IN_PAPER)
    order = [
        known.index(name) if name in known else len(known) for name in made.targets
    ]
    return made.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)


def section(group: list[schedule.Row], table: pd.DataFrame, apart: str) -> str:
    """The table of one group of rows, what follows from it, and the settings."""
    config, metric = group[0]["config"], schedule.primary(group[0])
    n, seeds = (
        group[0]["examples"][metric.partition("/")[0]],
        sorted({row["config"]["seed"] for row in group}),
    )
    scores = {
        "ours": ("score", "error"),
        **{data: (f"paper {data}", f"paper {data} std") for data in DATASETS},
    }
    shown = pd.DataFrame(
        {
            "targets": table.targets,
            "r": table["rank"],
            "parameters": [f"{size:,}" for size in table.parameters],
            "paper: r": published(DATASETS[0]).r.reindex(table.targets).to_numpy(),
            **{
                name: [
                    value(*pair) for pair in zip(table[x], table[error], strict=True)
                ]
                for name, (x, error) in scores.items()
            },
        }
    )
    settings = ", ".join(
        f"{k} {v}"
        for k, v in config.items()
        if k not in ("targets", "rank", "seed", "data_source")
    )
    right = {name: "right" for name in shown.columns[1:]}
    return (
        f"## {config['data']}, {config['model']}, {config['budget']:,} parameters{apart}\n\n"
        f"{SMOKE if config['model'] == 'tiny' else ''}"
        f"{metric} in %, {n:,} examples, seeds {seeds}{ERRORS[table['error of'].iloc[0]]}. "
        f"Learning parameters are the adapter's, the head's {group[0]['parameters']['head']:,} apart.\n\n"
        f"{results.markdown(shown, align=right, digits={'paper: r': 0})}\n{orders(table)}\n{comparison(table)}\n"
        f"<details><summary>Settings</summary>\n\n{settings}\n\nData: {config['data_source']}\n\n</details>\n"
    )


def value(score: float, error: float, sign: str = "") -> str:
    """`70.4 ± 0.5`; without an error if none is known, empty without a score."""
    return (
        ""
        if np.isnan(score)
        else f"{score:{sign}.1f}" + ("" if np.isnan(error) else f" ± {error:.1f}")
    )


def orders(table: pd.DataFrame) -> str:
    """The sets from best to worst, ours and the paper's."""
    lines = []
    for who, column in (
        ("ours", "score"),
        *((f"paper, {data}", f"paper {data}") for data in DATASETS),
    ):
        falling: Any = table.dropna(subset=column).sort_values(
            column, ascending=False, kind="stable"
        )
        names = [
            f"{{{name}}} {score:.1f}"
            for name, score in zip(falling.targets, falling[column], strict=True)
        ]
        lines += [f"- {who}: {', '.join(names)}\n"] if names else []
    return "From best to worst:\n\n" + "".join(lines)


def gain(table: pd.DataFrame, other: str) -> tuple[float, float]:
    """What adapting both query and value gains over another set at the same budget, in points, and its standard error."""
    both, one = (table[table.targets == name].iloc[0] for name in (BOTH, other))
    return both.score - one.score, math.hypot(both.error, one.error)


def comparison(table: pd.DataFrame) -> str:
    """The gain over each other set; ours and the paper's."""
    others = [name for name in table.targets if name != BOTH]
    if len(others) == len(table) or not others:
        return ""
    words = {
        "seen": "better",
        "within the error": "within the error",
        "not seen": "worse",
    }
    gains = [gain(table, name) for name in others]
    lines = {
        "against": [f"{{{name}}}" for name in others],
        "ours": [value(*each, "+") for each in gains],
    }
    lines |= {f"{{{BOTH}}} is": [words[effect(*each)] for each in gains]}
    for data in DATASETS:
        score: Any = table.set_index("targets")[f"paper {data}"]
        lines[data] = [
            value(score[BOTH] - score[name], math.nan, "+") for name in others
        ]
    shown = results.markdown(
        pd.DataFrame(lines), align=dict.fromkeys(("ours", *DATASETS), "right")
    )
    return (
        "The paper: the whole budget in Wq or in Wk does significantly worse than in both Wq and Wv. What "
        f"{{{BOTH}}} gains, in points, ± both standard errors together:\n\n{shown}"
    )


def verdicts(rows: list[schedule.Row]) -> list[Verdict]:
    """The effect of Table 5, in the largest group of rows alike: query and value together are above query, and above key."""
    table = summary(schedule.groups(rows, but=("targets", "rank", "seed"))[0])
    there = [name for name in ("query", "key") if {name, BOTH} <= set(table.targets)]
    return [
        Verdict(
            "LoRA Table 5",
            f"{{{BOTH}}} is above {{{name}}} at one budget",
            f"{value(*each, '+')} points",
            effect(*each),
        )
        for name, each in ((name, gain(table, name)) for name in there)
    ]


def figure(table: pd.DataFrame):
    """A bar for each set of matrices, ours and the paper's."""
    names = [IN_PAPER.get(name, name) for name in table.targets]
    ours = f"{Path(table.model.iloc[0]).name}, {Path(table.data.iloc[0]).name} ({table.budget.iloc[0]:,} parameters)"
    series: Any = {ours: (names, table.score, table.error)}
    for data in DATASETS:
        series[f"paper: GPT-3 175B, {data}"] = (
            names,
            table[f"paper {data}"],
            table[f"paper {data} std"],
        )
    low = np.nanmin([list(y) for _, y, _ in series.values()])
    base = max(0, 10 * math.floor(low / 10 - 0.5))
    return plots.bars_with_errors(
        series,
        title="One budget, different matrices"
        + (f" (bars start at {base})" if base else ""),
        xlabel="adapted attention matrices",
        ylabel=f"{table.metric.iloc[0].partition('/')[2]}, %",
        ylim=(base, 100),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and draw everything."""
    config = cli.line(Config, PRESETS, __doc__, arguments)
    schedule.run(NAME, config.out, cells(config), label, render, dry_run=config.dry_run)


if __name__ == "__main__":
    cli.script(main)
