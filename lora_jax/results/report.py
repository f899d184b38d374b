"""A report is a value: prose, tables, figures and claims. `write` makes it a page.

An experiment has a folder, with README.md, table.csv (every number) and figure.png. The
page of somebody's own rows also shows the committed reference rows beside them, and
says whether the two agree.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from lora_jax.results import files
from lora_jax.results.claims import Claim
from lora_jax.results.summary import (
    Group,
    check_columns,
    means,
    pivot,
    plus_minus,
    primary_metric,
)

SMOKE = "**A smoke run of a random model: its numbers mean nothing.**"
ERRORS = {
    "seeds": "± is the standard error over seeds",
    "binomial": "± is the binomial standard error of one seed",
    "none": "",
}
LISTED_CLAIMS = 40  # more than these stand in the page's own tables
DIGITS = 3  # decimals of a number whose column says nothing else
AGREEMENT = 2.0  # standard errors of a difference


class Section(NamedTuple):
    """A heading, then paragraphs and tables in order."""

    title: str
    blocks: Sequence[str | pd.DataFrame]


class Comparison(NamedTuple):
    """How two sets of rows are held against each other, by columns of their `data`.

    Two values agree if they differ by at most two standard errors of the difference, or
    by the tolerance, whichever is larger.
    """

    by: tuple[str, ...]  # the columns that name a line
    value: str = "score"
    error: str = "error"  # "" where values have none
    tolerance: float = 0.0
    relative: float = 0.0  # tolerance as a share of the reference's value


class Report(NamedTuple):
    """Everything an experiment shows."""

    title: str
    intro: str | None  # the script's docstring
    sections: Sequence[Section]
    claims: Sequence[Claim] = ()
    data: pd.DataFrame | None = None  # every number
    figures: Mapping[str, Figure] = MappingProxyType(
        {}
    )  # "" is the first, others by their suffix
    comparison: Comparison | None = None


def write(report: Report, folder: Path, reference: Report | None = None) -> list[Path]:
    """Write README.md, table.csv and the figures; return their paths.

    With `reference`, the report of the committed rows, the page compares the two.
    """
    contents = {"README.md": markdown(report, reference).encode()}
    if report.data is not None:
        contents["table.csv"] = files.csv(report.data)
    for suffix, figure in report.figures.items():
        contents[figure_name(suffix)] = files.png(figure)
    paths = []
    for name, content in contents.items():
        files.write_if_changed(folder / name, content)
        paths.append(folder / name)
    return paths


def markdown(report: Report, reference: Report | None = None) -> str:
    """Return the page."""
    parts = [f"# {report.title}", (report.intro or "").strip()]
    for suffix in report.figures:
        title = f"{report.title} {suffix}".strip()
        parts.append(f"![{title}]({figure_name(suffix)})")
    if reference is not None:
        parts.append(_agreement_text(report, reference))
    for section in report.sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            parts.append(block if isinstance(block, str) else table(block))
    if 0 < len(report.claims) <= LISTED_CLAIMS:
        parts += ["## Claims", table(pd.DataFrame(report.claims))]
    texts = [part.strip() for part in parts]
    return "\n\n".join(text for text in texts if text) + "\n"


def figure_name(suffix: str) -> str:
    """Return the file name of a figure."""
    return f"figure_{suffix}.png" if suffix else "figure.png"


def table(frame: pd.DataFrame, digits: int | Mapping[str, int] | None = None) -> str:
    """Return a padded pipe table; numbers are right-aligned, missing values empty.

    `digits` are the decimals of floats, for all columns or by column; without them a
    float has at most three and no trailing zeros. Whole numbers have thousands
    separators.

    Raises:
        ValueError: `digits` names a column that the table does not have.
    """
    places = digits if isinstance(digits, Mapping) else {}
    check_columns(list(places), frame)
    default = None if isinstance(digits, Mapping) else digits
    columns = []
    for name in frame.columns:
        decimals = places.get(name, default)
        if decimals is None:
            decimals = _decimals(frame[name])
        cells = [_cell(value, decimals) for value in frame[name]]
        columns.append(_column(str(name), cells))
    lines = [f"| {' | '.join(line)} |" for line in zip(*columns, strict=True)]
    return "\n".join(lines) + "\n"


def agreement(
    data: pd.DataFrame, reference: pd.DataFrame, comparison: Comparison
) -> pd.DataFrame:
    """Return the lines that both have: paper, reference, yours, difference, agreement."""
    by = [name for name in comparison.by if name in data and name in reference]
    published = [name for name in reference if str(name).startswith("paper ")]
    columns = [comparison.value, *filter(None, [comparison.error])]
    ours = data[[*by, *columns]].drop_duplicates(by)
    theirs = reference[[*by, *published, *columns]].drop_duplicates(by)
    both = theirs.merge(ours, on=by, suffixes=(" of reference", " of yours"))
    lines = []
    for _, line in both.iterrows():
        values = _compared(line, comparison)
        lines.append({**line[[*by, *published]].to_dict(), **values})
    return pd.DataFrame(lines)


def settings(group: Group) -> str:
    """Return every setting of a group, folded away."""
    hidden = ("data_source", "model_source", "data_dir", "glue_dir")
    items = []
    for name, value in group.settings.items():
        if name not in hidden:
            items.append(f"{name} {value}")
    sources = []
    for name in ("model_source", "data_source"):
        if group.settings.get(name):
            label = name.removesuffix("_source").capitalize()
            sources.append(f"{label}: {group.settings[name]}")
    text = "\n\n".join([", ".join(items), *sources])
    return f"<details><summary>Settings</summary>\n\n{text}\n\n</details>"


def warning(group: Group) -> list[str]:
    """Return what has to be said first of a smoke run; nothing of others."""
    return [SMOKE] if group.is_smoke else []


def measured_on(group: Group, error_kind: str = "none", metric: str = "") -> str:
    """Return a sentence on the metric, the examples, the seeds and what ± means."""
    metric = metric or primary_metric(group.first)
    split = metric.partition("/")[0]
    examples = group.first["examples"][split]
    seeds = ", ".join(map(str, group.seeds))
    meaning = f"; {ERRORS[error_kind]}" if ERRORS[error_kind] else ""
    return f"{metric} in %, {examples:,} examples, seeds {seeds}{meaning}."


def grid_blocks(group: Group, scores: pd.DataFrame, down: str, across: str) -> list:
    """Return the blocks of a sweep over two settings: scores, parameters, means.

    `scores` is a table of `results.scores`, which may have columns of the paper's.
    """
    texts = plus_minus(scores["score"], scores["error"])
    table = scores.assign(text=texts)
    head = group.first["parameters"]["head"]
    prefix = "r = " if across == "rank" else f"{across} = "
    return [
        *warning(group),
        measured_on(group, scores["error of"].iloc[0]),
        pivot(table, down, across, "text", prefix=prefix),
        f"Trainable parameters of the adapter (the head's {head:,} apart):",
        pivot(table, down, across, "parameters", prefix=prefix),
        f"Mean over these values of {across}, in %, ours and the paper's:",
        means(scores, down).round(1),
        settings(group),
    ]


def clock(seconds: float) -> str:
    """Return 12 s, 3 min 20 s, 2 h 05 min."""
    rounded = round(seconds)
    if rounded < 100:
        return f"{rounded} s"
    if rounded < 6000:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def render(
    path_stem: str | Path,
    *,
    markdown: str,
    table: pd.DataFrame,
    figure: Figure | None = None,
) -> list[Path]:
    """Write stem.md, stem.csv and, with a figure, stem.png; return their paths.

    For a page outside the experiments. Files whose bytes stay the same are not touched.
    """
    contents = {".md": markdown.encode(), ".csv": files.csv(table)}
    if figure is not None:
        contents[".png"] = files.png(figure)
    paths = []
    for suffix, content in contents.items():
        path = Path(f"{path_stem}{suffix}")
        files.write_if_changed(path, content)
        paths.append(path)
    return paths


def _agreement_text(report: Report, reference: Report) -> str:
    """The section that holds somebody's rows against the committed ones."""
    title = "## Yours and the reference"
    comparison = report.comparison
    if comparison is None or report.data is None or reference.data is None:
        return ""
    both = agreement(report.data, reference.data, comparison)
    if both.empty:
        return (
            f"{title}\n\nThe reference rows, committed with the repository, have none "
            "of these settings: there is nothing to compare."
        )
    count = int((both["agrees"] == "yes").sum())
    verdict = "agree" if count == len(both) else "do not all agree"
    sentence = (
        f"**Your rows and the reference rows {verdict}**: {count} of {len(both)} lines. "
        "A line agrees if it differs by at most two standard errors of the difference"
    )
    if comparison.tolerance:
        sentence += f", or by {comparison.tolerance:g}"
    if comparison.relative:
        sentence += f", or by {100 * comparison.relative:g} % of the reference"
    return f"{title}\n\n{sentence}.\n\n{table(both)}"


def _compared(line: pd.Series, comparison: Comparison) -> dict[str, Any]:
    reference = line[f"{comparison.value} of reference"]
    yours = line[f"{comparison.value} of yours"]
    difference = yours - reference
    error = 0.0
    if comparison.error:
        errors = [line[f"{comparison.error} of {whose}"] for whose in SIDES]
        known = [error for error in errors if not math.isnan(error)]
        error = math.hypot(*known)
    allowed = max(
        AGREEMENT * error,
        comparison.tolerance,
        comparison.relative * abs(reference),
    )
    agrees = abs(difference) <= allowed + 1e-9
    return {
        "reference": reference,
        "yours": yours,
        "difference": difference,
        "allowed": allowed,
        "agrees": "yes" if agrees else "no",
    }


SIDES = ("reference", "yours")


def _column(name: str, cells: list[str]) -> list[str]:
    """The cells of a column, padded to one width, with the rule under its name."""
    filled = [cell for cell in cells if cell]
    is_numeric = bool(filled) and all(map(NUMERIC.match, filled))
    texts = [_escaped(name), *cells]
    width = max(3, *map(len, texts))
    side = ">" if is_numeric else "<"
    texts = [f"{text:{side}{width}}" for text in texts]
    rule = "-" * (width - 1) + (":" if is_numeric else "-")
    return [texts[0], rule, *texts[1:]]


# A number, perhaps with thousands separators, a sign, an error and a unit of time.
NUMERIC = re.compile(r"[+\-−]?[\d,.]+(e[+-]?\d+)?( ± [\d.]+)?( (s|min|h|%).*)?$")


def _decimals(values: pd.Series) -> int:
    """The fewest decimals that show every float of a column, at most three."""
    decimals = 0
    for value in values:
        if isinstance(value, float) and not math.isnan(value):
            text = f"{value:.{DIGITS}f}".rstrip("0")
            decimals = max(decimals, len(text.partition(".")[2]))
    return decimals


def _cell(value: Any, decimals: int) -> str:
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, float):
        return _number(value, decimals)
    if isinstance(value, bool):
        return str(value)
    if pd.api.types.is_integer(value):
        return f"{value:,}"
    return _escaped(str(value))


def _number(value: float, decimals: int) -> str:
    if math.isnan(value):
        return ""
    if value != 0 and abs(value) < 0.5 * 10**-decimals:
        return f"{value:.{DIGITS}g}"  # too small for the column
    return f"{value:,.{decimals}f}"


def _escaped(text: str) -> str:
    """The text in one line of a pipe table."""
    return text.replace("|", "\\|").replace("\n", " ")
