"""Studies of methods on tasks that generate text: their cells, and what is drawn from their rows.

LoRA's Tables 3, 4, 13 and 14 are such: a line for each method, its parameters, the scores of what it wrote.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lora_jax import methods as adaptation
from lora_jax import results, tree
from lora_jax.experiment import run, schedule
from lora_jax.experiment.progress import clock
from lora_jax.experiment.schedule import Row
from lora_jax.metrics import text as text_metrics
from lora_jax.results import plots
from lora_jax.results.claims import Verdict, effect

NAMES = {
    "none": "as pretrained",
    "full": "full fine-tuning",
    "top": "FT-Top2",
    "bitfit": "BitFit",
    "adapter_l": "Adapter^L",
    "adapter_h": "Adapter^H",
    "prefix": "PreLayer",
    "lora": "LoRA",
}
RATES = {  # relative to LoRA's, from trials on 512 rows of E2E (LOG.md); of bitfit a guess
    "full": 0.05,
    "top": 0.5,
    "bitfit": 1.0,
    "adapter_l": 2.0,
    "adapter_h": 1.0,
    "prefix": 2.5,
}
OPTIONS = (  # settings of some methods only
    "targets",
    "rank",
    "alpha",
    "dropout",
    "init",
    "rank_stabilized",
    "bias",
    "bottleneck",
    "prefix_length",
    "top_layers",
)
VARIED = ("method", "seed", "learning_rate", "quantize", *OPTIONS)
SHARES = (
    "bleu",
    "meteor",
    "rouge_l",
    "rouge_1",
    "rouge_2",
    "chrf",
    "ter",
    "exact_match",
)  # shown in %
SMOKE = "**A smoke run of a random model: its numbers mean nothing.**\n\n"


def cells(config: Any, plain: Any, *, rates: Mapping[str, float] = RATES) -> list[Row]:
    """One cell for each of a study's `methods` and `seeds`, its learning rate the study's times the method's.

    What a method does not take is as in the study `plain`, so that no cell is there twice. Full fine-tuning gets arrays to learn.

    Raises:
        ValueError: `config` names another method than the default, which --methods would hide, or `methods` has one that is none.
    """
    given, usual = (
        {**asdict(of.setup), "targets": of.targets, "rank": of.rank}
        for of in (config, plain)
    )
    if given["method"] != run.SETUP.method:
        raise ValueError(
            f"--method: expected the methods as --methods, got --method {given['method']}"
        )
    there = [run.NONE, *adaptation.METHODS]
    if wrong := [method for method in config.methods if method not in there]:
        raise ValueError(
            f"methods: expected some of {tree.near(wrong[0], there)}, got {', '.join(wrong)}"
        )
    made = []
    for seed in config.seeds:
        for method in config.methods:
            own = {
                "method": method,
                "seed": seed,
                "learning_rate": given["learning_rate"] * rates.get(method, 1.0),
            }
            own |= {name: usual[name] for name in OPTIONS if name not in taken(method)}
            if method == run.NONE:
                own |= {"seed": 0, "learning_rate": usual["learning_rate"]}
            if method == "full":
                own |= {"quantize": "float"}
            made.append({**given, **own})
    return made


def taken(method: str) -> tuple[str, ...]:
    """The settings that matter to a method, as a row's config has them."""
    if method not in adaptation.METHODS:  # none, or one of a row that is here no more
        return ("quantize",)
    return (
        "learning_rate",
        "quantize",
        *(name for name in OPTIONS if name in adaptation.options(method)),
    )


def label(cell: Row) -> str:
    """The cell in a line of progress."""
    rate = "" if cell["method"] == run.NONE else f" rate={cell['learning_rate']:g}"
    return f"{cell['data']} {cell['method']}{rate} seed={cell['seed']}"


def names(row: Row) -> list[str]:
    """The metrics of a row: validation's loss, then those of what was written, as papers order them."""
    order = list(text_metrics.METRICS)
    written = [name for name in row["metrics"] if not name.startswith("validation/")]
    return [
        "validation/loss",
        *sorted(
            written,
            key=lambda name: (name.split("/")[0], order.index(name.split("/")[1])),
        ),
    ]


def summary(group: Sequence[Row]) -> pd.DataFrame:
    """A line for each setting of a method: parameters, the metrics' means over seeds and their standard errors, speed, time."""
    lines = []
    for called, rows in settings(group).items():
        config = rows[0]["config"]
        line = {
            "data": config["data"],
            "model": config["model"],
            "method": config["method"],
            "called": called,
        }
        own = taken(config["method"])
        line |= {
            name: config.get(name) if name in own else None
            for name in ("learning_rate", "quantize", *OPTIONS)
        }
        line |= {"parameters": rows[0]["parameters"]["adapter"], "seeds": len(rows)}
        for name in names(rows[0]):
            values = np.array([row["metrics"][name] for row in rows], float) * (
                100 if name.split("/")[1] in SHARES else 1
            )
            error = (
                values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
            )
            line |= {name: values.mean(), f"{name} error": error}
        line["tokens per second"] = np.mean([row["tokens_per_second"] for row in rows])
        speeds = [
            written["tokens_per_second"]
            for row in rows
            for written in row["written"].values()
        ]
        line["written tokens per second"] = np.mean(speeds)
        lines.append(line | {"seconds": np.mean([row["seconds"] for row in rows])})
    return pd.DataFrame(lines)


def settings(group: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each setting of a method by what it is called, as papers order methods: "LoRA", or where there are several
    "LoRA, learning_rate 0.01"."""
    by: dict[Any, list[Row]] = {}
    for row in group:
        config = row["config"]
        key = (
            config["method"],
            *(
                (name, config[name])
                for name in taken(config["method"])
                if name in config
            ),
        )
        by.setdefault(key, []).append(row)
    order = list(NAMES)
    made = {}
    for key in sorted(
        by,
        key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key),
    ):
        others = [dict(other[1:]) for other in by if other[0] == key[0]]
        differ = [
            f"{name} {value}"
            for name, value in key[1:]
            if any(other.get(name) != value for other in others)
        ]
        made[", ".join([NAMES.get(str(key[0]), str(key[0])), *differ])] = by[key]
    return made


def draw(
    rows: Sequence[Row], stem: Path, header: str, published: Callable[[str], str]
) -> list[Path]:
    """stem.md, .csv and .png from the rows alone: scores, `published(task)` beside them, what was written, training losses."""
    groups = schedule.groups(rows, but=VARIED)
    tables, apart = [summary(group) for group in groups], schedule.apart(groups)
    parts = zip(groups, tables, apart, strict=True)
    sections = [
        section(group, table, of, published(group[0]["config"]["data"]))
        for group, table, of in parts
    ]
    every = pd.concat(
        [
            table.assign(settings=of[2:]) if of else table
            for table, of in zip(tables, apart, strict=True)
        ]
    )
    return results.render(
        stem,
        markdown="\n".join([header, *sections]),
        table=every,
        figure=curves(groups[0]),
    )


def section(
    group: Sequence[Row], table: pd.DataFrame, apart: str, published: str
) -> str:
    """One group of rows, alike in all but the method and its settings: the scores, the paper's beside them, examples."""
    config, first = group[0]["config"], group[0]
    sources = ", ".join(
        f"{n:,} sources of {split}"
        for split, n in first["examples"].items()
        if split in first["written"]
    )
    said = ", ".join(
        f"{k} {v}"
        for k, v in config.items()
        if k not in (*VARIED, "data_source", "data_dir")
    )
    each = ((called, rows[0]["config"]) for called, rows in settings(group).items())
    own = [
        f"- {called}: {', '.join(f'{k} {c[k]}' for k in taken(c['method']) if k in c)}"
        for called, c in each
    ]
    return (
        f"## {config['data']}, {config['model']}{apart}\n\n"
        f"{SMOKE if config['model'].startswith('tiny') else ''}"
        f"Trained on {first['examples']['train']:,} rows, epochs: {config['epochs']}; scored on {sources}, each with all its "
        f"references; seeds {sorted({row['config']['seed'] for row in group})}. Loss in nats a token of the target, without "
        f"smoothing; shares in %, ± is the standard error over seeds.{notes(first)}\n\n"
        f"{_scores(group, table)}\n{published}{_examples(group)}\n"
        f"<details><summary>Settings</summary>\n\n{said}\n\n" + "\n".join(own) + "\n\n"
        f"Data: {config['data_source']}\n\n</details>\n"
    )


def _scores(group: Sequence[Row], table: pd.DataFrame) -> str:
    shown = {"method": list(table.called)}
    shown["parameters"] = [f"{size:,}" for size in table.parameters]
    for name in names(group[0]):
        digits = (
            3
            if name.endswith("loss")
            else 2
            if name.split("/")[1] in ("nist", "cider")
            else 1
        )
        shown[name] = [
            f"{mean:.{digits}f}" + ("" if np.isnan(error) else f" ± {error:.{digits}f}")
            for mean, error in zip(table[name], table[f"{name} error"], strict=True)
        ]
    shown["training tokens/s"] = [
        f"{speed:,.0f}" if speed else "" for speed in table["tokens per second"]
    ]
    shown["written tokens/s, with compilation"] = [
        f"{speed:,.0f}" for speed in table["written tokens per second"]
    ]
    shown["time"] = [clock(seconds) for seconds in table.seconds]
    return results.markdown(
        pd.DataFrame(shown), align=dict.fromkeys([*shown][1:], "right")
    )


def notes(row: Row) -> str:
    """In what a metric is not the papers' own, and why one is missing."""
    asked = dict.fromkeys(name.split("/")[1] for name in names(row))
    said = [f"{name}: {text}" for name in asked if (text := text_metrics.note(name))]
    lost = {
        name: why
        for written in row["written"].values()
        for name, why in written["missing"].items()
    }
    return "".join(
        f" {text}."
        for text in [
            *said,
            *(f"{name} is missing: {why}" for name, why in lost.items()),
        ]
    )


def _examples(group: Sequence[Row], most: int = 3) -> str:
    """What the first seed's models wrote for the first sources, beside a reference."""
    each_first = {called: rows[0] for called, rows in settings(group).items()}
    written = [
        next(iter(row["written"].values()))["examples"][:most]
        for row in each_first.values()
    ]
    parts = ["What was written for the first sources of the test set:\n"]
    for each in zip(*written, strict=True):
        lines = [("source", each[0]["source"])]
        lines += [
            (called, one["output"])
            for called, one in zip(each_first, each, strict=True)
        ]
        lines.append(
            (f"a reference of {len(each[0]['references'])}", each[0]["references"][0])
        )
        parts.append(
            results.markdown(
                pd.DataFrame([(k, plain(v)) for k, v in lines], columns=["", "text"])
            )
        )
    return "\n".join(parts)


def plain(text: str, most: int = 400) -> str:
    """A text in one line of a table, whatever a model has written."""
    line = "".join(
        c if c.isprintable() else " / " if c == "\n" else f"\\x{ord(c):02x}"
        for c in text
    )
    line = line.replace("<", "&lt;").replace("*", "\\*")
    return line if len(line) <= most else f"{line[:most]} …"


def verdicts(rows: Sequence[Row], metric: str, where: str, what: str) -> list[Verdict]:
    """The paper's effect in the largest group: LoRA's score, `what`, is above each other method's, all at their best settings."""
    rows = [row for row in rows if metric in row["metrics"]]
    if not rows:
        return []
    table: Any = summary(schedule.groups(rows, but=VARIED)[0])
    table = (
        table.sort_values(metric)
        .drop_duplicates("method", keep="last")
        .set_index("method")
    )
    if "lora" not in table.index:
        return []
    ours, found = table.loc["lora"], []
    for method in (
        name for name in NAMES if name in table.index and name not in ("lora", run.NONE)
    ):
        other = table.loc[method]
        error = float(np.hypot(ours[f"{metric} error"], other[f"{metric} error"]))
        unsure = "%, one seed" if np.isnan(error) else f"± {error:.1f} %"
        said = f"{ours[metric]:.1f} against {other[metric]:.1f} {unsure}"
        found.append(
            Verdict(
                where,
                f"{what} is above that of {NAMES[method]}",
                said,
                effect(ours[metric] - other[metric], error),
            )
        )
    return found


def curves(group: Sequence[Row]) -> Any:
    """Training loss against steps for each method that trained: means of neighbouring steps, label smoothing included."""
    trained = {
        called: rows[0]["curve"]
        for called, rows in settings(group).items()
        if rows[0]["curve"]
    }
    if not trained:
        return None
    series: Any = {
        called: ([x for x, _ in curve], [y for _, y in curve], None)
        for called, curve in trained.items()
    }
    title = f"{group[0]['config']['model']}, {group[0]['config']['data']}"
    return plots.curves(
        series, title=title, xlabel="step", ylabel="training loss, nats a token"
    )
