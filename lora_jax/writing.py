"""Studies of methods on tasks that generate text: their cells, and what is drawn from their rows.

LoRA's Tables 3, 4, 13 and 14 are such: a line for each method, its parameters, the scores of what it wrote.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lora_jax import methods as adaptation
from lora_jax import plots, results, study, text_metrics, tree, trial
from lora_jax.progress import clock
from lora_jax.study import Row
from lora_jax.verdicts import Verdict, effect

NAMES = {
    "none": "as pretrained", "full": "full fine-tuning", "top": "FT-Top2", "bitfit": "BitFit", "adapter_l": "Adapter^L",
    "adapter_h": "Adapter^H", "prefix": "PreLayer", "lora": "LoRA",
}  # fmt: skip
RATES = {  # relative to LoRA's, from trials on 512 rows of E2E (LOG.md); of bitfit a guess
    "full": 0.05, "top": 0.5, "bitfit": 1.0, "adapter_l": 2.0, "adapter_h": 1.0, "prefix": 2.5,
}  # fmt: skip
SETTINGS = ("method", "learning_rate", "rank", "targets")
VARIED = ("method", "learning_rate", "quantize", "seed", "rank", "targets")
SHARES = ("bleu", "meteor", "rouge_l", "rouge_1", "rouge_2", "chrf", "ter", "exact_match")  # shown in %
SMOKE = "**A smoke run of a random model: its numbers mean nothing.**\n\n"


def cells(setup: Row, methods: Sequence[str], seeds: Sequence[int], *, rates: Mapping[str, float] = RATES) -> list[Row]:
    """One cell for each method and seed, its learning rate `setup`'s times the method's. What must learn every weight gets them as
    arrays.

    Raises:
        ValueError: `setup` names another method than the default, which --methods would hide, or `methods` has one that is none.
    """
    if setup["method"] != trial.SETUP.method:
        raise ValueError(f"--method: expected the methods as --methods, got --method {setup['method']}")
    there = [trial.NONE, *adaptation.METHODS]
    if wrong := [method for method in methods if method not in there]:
        raise ValueError(f"methods: expected some of {tree.near(wrong[0], there)}, got {', '.join(wrong)}")
    made = []
    for seed in seeds:
        for method in methods:
            every = method in ("full", "bitfit") and setup["quantize"] == "none"
            own = {
                "method": method,
                "learning_rate": setup["learning_rate"] * rates.get(method, 1.0),
                "quantize": "float" if every else setup["quantize"],
                "seed": seed,
            }
            if method == trial.NONE:  # nothing depends on these
                own |= {"learning_rate": trial.NLG.learning_rate, "seed": 0}
            made.append({**setup, **own})
    return made


def label(cell: Row) -> str:
    """The cell in a line of progress."""
    return f"{cell['data']} {cell['method']} seed={cell['seed']}"


def names(row: Row) -> list[str]:
    """The metrics of a row: validation's loss, then those of what was written, as papers order them."""
    order = list(text_metrics.METRICS)
    written = [name for name in row["metrics"] if not name.startswith("validation/")]
    return ["validation/loss", *sorted(written, key=lambda name: (name.split("/")[0], order.index(name.split("/")[1])))]


def summary(group: Sequence[Row]) -> pd.DataFrame:
    """A line for each setting of a method: parameters, the metrics' means over seeds and their standard errors, speed, time."""
    lines = []
    for called, rows in settings(group).items():
        config, own = rows[0]["config"], rows[0]["config"]["method"] == "lora"
        line = {"data": config["data"], "model": config["model"], "method": config["method"], "called": called}
        line |= {"learning_rate": config["learning_rate"]}
        line |= {"rank": config["rank"] if own else None, "targets": config["targets"] if own else None}
        line |= {"parameters": rows[0]["parameters"]["adapter"], "seeds": len(rows)}
        for name in names(rows[0]):
            values = np.array([row["metrics"][name] for row in rows], float) * (
                100 if name.split("/")[1] in SHARES else 1
            )
            error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
            line |= {name: values.mean(), f"{name} error": error}
        line["tokens per second"] = np.mean([row["tokens_per_second"] for row in rows])
        speeds = [written["tokens_per_second"] for row in rows for written in row["written"].values()]
        line["written tokens per second"] = np.mean(speeds)
        lines.append(line | {"seconds": np.mean([row["seconds"] for row in rows])})
    return pd.DataFrame(lines)


def settings(group: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each setting of a method by what it is called, as papers order methods: "LoRA", or where there are several
    "LoRA, learning_rate 0.01"."""
    by: dict[Any, list[Row]] = {}
    for row in group:
        by.setdefault(tuple(row["config"][name] for name in SETTINGS), []).append(row)
    order = list(NAMES)
    made = {}
    for key in sorted(by, key=lambda key: order.index(key[0]) if key[0] in order else len(order)):
        others = [other for other in by if other[0] == key[0]]
        differ = [i for i in range(1, len(key)) if len({other[i] for other in others}) > 1]
        made[", ".join([NAMES.get(str(key[0]), str(key[0])), *(f"{SETTINGS[i]} {key[i]}" for i in differ)])] = by[key]
    return made


def draw(rows: Sequence[Row], stem: Path, header: str, published: Callable[[str], str]) -> list[Path]:
    """stem.md, .csv and .png from the rows alone: scores, `published(task)` beside them, what was written, training losses."""
    groups = study.groups(rows, but=VARIED)
    tables, apart = [summary(group) for group in groups], study.apart(groups)
    parts = zip(groups, tables, apart, strict=True)
    sections = [section(group, table, of, published(group[0]["config"]["data"])) for group, table, of in parts]
    every = pd.concat([table.assign(settings=of[2:]) if of else table for table, of in zip(tables, apart, strict=True)])
    return results.render(stem, markdown="\n".join([header, *sections]), table=every, figure=curves(groups[0]))


def section(group: Sequence[Row], table: pd.DataFrame, apart: str, published: str) -> str:
    """One group of rows, alike in all but the method and its settings: the scores, the paper's beside them, examples."""
    config, first = group[0]["config"], group[0]
    sources = ", ".join(
        f"{n:,} sources of {split}" for split, n in first["examples"].items() if split in first["written"]
    )
    said = ", ".join(f"{k} {v}" for k, v in config.items() if k not in (*VARIED, "data_source", "data_dir"))
    learnt = [line for line in zip(table.method, table.learning_rate, strict=True) if line[0] != trial.NONE]
    return (
        f"## {config['data']}, {config['model']}{apart}\n\n"
        f"{SMOKE if config['model'].startswith('tiny') else ''}"
        f"Trained on {first['examples']['train']:,} rows, epochs: {config['epochs']}; scored on {sources}, each with all its "
        f"references; seeds {sorted({row['config']['seed'] for row in group})}. Loss in nats a token of the target, without "
        f"smoothing; shares in %, ± is the standard error over seeds.{notes(first)}\n\n"
        f"{_scores(group, table)}\n{published}{_examples(group)}\n"
        f"<details><summary>Settings</summary>\n\n{said}\n\n"
        f"Learning rates: {', '.join(f'{name} {rate:g}' for name, rate in learnt)}\n\n"
        f"Data: {config['data_source']}\n\n</details>\n"
    )


def _scores(group: Sequence[Row], table: pd.DataFrame) -> str:
    shown = {"method": list(table.called)}
    shown["parameters"] = [f"{size:,}" for size in table.parameters]
    for name in names(group[0]):
        digits = 3 if name.endswith("loss") else 2 if name.split("/")[1] in ("nist", "cider") else 1
        shown[name] = [
            f"{mean:.{digits}f}" + ("" if np.isnan(error) else f" ± {error:.{digits}f}")
            for mean, error in zip(table[name], table[f"{name} error"], strict=True)
        ]
    shown["training tokens/s"] = [f"{speed:,.0f}" if speed else "" for speed in table["tokens per second"]]
    shown["written tokens/s, with compilation"] = [f"{speed:,.0f}" for speed in table["written tokens per second"]]
    shown["time"] = [clock(seconds) for seconds in table.seconds]
    return results.markdown(pd.DataFrame(shown), align=dict.fromkeys([*shown][1:], "right"))


def notes(row: Row) -> str:
    """In what a metric is not the papers' own, and why one is missing."""
    asked = dict.fromkeys(name.split("/")[1] for name in names(row))
    said = [f"{name}: {text}" for name in asked if (text := text_metrics.note(name))]
    lost = {name: why for written in row["written"].values() for name, why in written["missing"].items()}
    return "".join(f" {text}." for text in [*said, *(f"{name} is missing: {why}" for name, why in lost.items())])


def _examples(group: Sequence[Row], most: int = 3) -> str:
    """What the first seed's models wrote for the first sources, beside a reference."""
    each_first = {called: rows[0] for called, rows in settings(group).items()}
    written = [next(iter(row["written"].values()))["examples"][:most] for row in each_first.values()]
    parts = ["What was written for the first sources of the test set:\n"]
    for each in zip(*written, strict=True):
        lines = [("source", each[0]["source"])]
        lines += [(called, one["output"]) for called, one in zip(each_first, each, strict=True)]
        lines.append((f"a reference of {len(each[0]['references'])}", each[0]["references"][0]))
        parts.append(results.markdown(pd.DataFrame([(k, plain(v)) for k, v in lines], columns=["", "text"])))
    return "\n".join(parts)


def plain(text: str, most: int = 400) -> str:
    """A text in one line of a table, whatever a model has written."""
    line = "".join(c if c.isprintable() else " / " if c == "\n" else f"\\x{ord(c):02x}" for c in text)
    line = line.replace("<", "&lt;").replace("*", "\\*")
    return line if len(line) <= most else f"{line[:most]} …"


def verdicts(rows: Sequence[Row], metric: str, where: str, what: str) -> list[Verdict]:
    """The paper's effect in the largest group: LoRA's score, `what`, is above that of each other method."""
    rows = [row for row in rows if metric in row["metrics"]]
    if not rows:
        return []
    table: Any = summary(study.groups(rows, but=VARIED)[0]).drop_duplicates("method").set_index("method")
    if "lora" not in table.index:
        return []
    ours, found = table.loc["lora"], []
    for method in (name for name in NAMES if name in table.index and name not in ("lora", trial.NONE)):
        other = table.loc[method]
        error = float(np.hypot(ours[f"{metric} error"], other[f"{metric} error"]))
        said = f"{ours[metric]:.1f} against {other[metric]:.1f} ± {error:.1f} %"
        found.append(
            Verdict(
                where, f"{what} is above that of {NAMES[method]}", said, effect(ours[metric] - other[metric], error)
            )
        )
    return found


def curves(group: Sequence[Row]) -> Any:
    """Training loss against steps for each method that trained: means of neighbouring steps, label smoothing included."""
    trained = {called: rows[0]["curve"] for called, rows in settings(group).items() if rows[0]["curve"]}
    if not trained:
        return None
    series: Any = {called: ([x for x, _ in curve], [y for _, y in curve], None) for called, curve in trained.items()}
    title = f"{group[0]['config']['model']}, {group[0]['config']['data']}"
    return plots.curves(series, title=title, xlabel="step", ylabel="training loss, nats a token")
