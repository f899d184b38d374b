"""A report is a value: prose, tables, figures and claims. `write` makes it a page.

An experiment has a folder, with README.md, table.csv (every number) and figure.png. The
page of somebody's own rows also shows the committed reference rows beside them, and
says whether the two agree. What several experiments say in the same words is here too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from lora_jax.results import files, pictures
from lora_jax.results.agreement import Comparison, agreement, verdict
from lora_jax.results.claims import Claim
from lora_jax.results.summary import Group, means, pivot, plus_minus, primary_metric
from lora_jax.results.tables import clock, table

__all__ = [
    "Comparison",
    "Report",
    "Section",
    "agreement",
    "clock",
    "figure_name",
    "grid_blocks",
    "group_section",
    "markdown",
    "measured_on",
    "render",
    "settings",
    "table",
    "warning",
    "write",
]

SMOKE = "**A smoke run of a random model: its numbers mean nothing.**"
# What ± means, by the kind of error of `results.summary`.
ERRORS = {
    "seeds": "± is the standard error over seeds",
    "binomial": "± is the binomial standard error of one seed",
    "none": "",
}
LISTED_CLAIMS = 40  # more than these stand in the page's own tables
NO_FIGURES: Mapping[str, Figure] = MappingProxyType({})
NO_CAPTIONS: Mapping[str, str] = MappingProxyType({})
# Where things come from has lines of its own; where they lie is nobody's concern.
SOURCES = ("model_source", "data_source")
HIDDEN = (*SOURCES, "data_dir", "glue_dir")

Block = str | pd.DataFrame
"""A paragraph or a table."""


class Section(NamedTuple):
    """A heading, then paragraphs and tables in order."""

    title: str
    blocks: Sequence[Block]


class Report(NamedTuple):
    """Everything an experiment shows."""

    title: str
    intro: str | None  # the script's docstring
    sections: Sequence[Section]
    claims: Sequence[Claim] = ()
    data: pd.DataFrame | None = None  # every number
    figures: Mapping[str, Figure] = NO_FIGURES  # by suffix; "" is the first
    comparison: Comparison | None = None
    headline: str = ""  # a part of the statement that stands for all in the README
    captions: Mapping[str, str] = NO_CAPTIONS  # of figures, by suffix: their groups
    undrawn: Sequence[str] = ()  # the groups that no figure shows


def write(report: Report, folder: Path, reference: Report | None = None) -> list[Path]:
    """Write README.md, table.csv and the figures; return their paths.

    With `reference`, the report of the committed rows, the page compares the two.
    """
    # All of them are made before the first is written.
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
    """Return the page: figures first, then sections, then claims."""
    parts = [f"# {report.title}", report.intro or ""]
    parts += picture_parts(report, "")
    # Whether a reader's rows agree is what a reader looks for first.
    if reference is not None:
        parts.append(_agreement_text(report, reference))
    for section in report.sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            parts.append(block if isinstance(block, str) else table(block))
    # A long list would only repeat the page's tables.
    if 0 < len(report.claims) <= LISTED_CLAIMS:
        parts.append("## Claims")
        parts.append(table(pd.DataFrame(report.claims)))
    texts = [part.strip() for part in parts]
    return "\n\n".join(filter(None, texts)) + "\n"


def picture_parts(report: Report, folder: str) -> list[str]:
    """Return the links to all figures, and which groups have none.

    `folder` is where they lie, with a slash at its end, or empty.
    """
    parts = []
    has_several = len(set(report.captions.values())) > 1
    for suffix in report.figures:
        title = f"{report.title} {suffix}".strip()
        caption = report.captions.get(suffix, "")
        # The figures of one group follow each other, under its name.
        if has_several and f"*{caption}*" not in parts:
            parts.append(f"*{caption}*")
        parts.append(f"![{title}]({folder}{figure_name(suffix)})")
    if report.undrawn:
        listed = "; ".join(report.undrawn)
        count = pictures.MAX_GROUPS
        parts.append(
            f"Without a picture (of the first {count} groups, where there is something "
            f"to draw): {listed}."
        )
    return parts


def figure_name(suffix: str) -> str:
    """Return the file name of a figure."""
    return f"figure_{suffix}.png" if suffix else "figure.png"


def settings(group: Group) -> str:
    """Return every setting of a group, folded away."""
    items = []
    for name, value in group.settings.items():
        if name not in HIDDEN:
            items.append(f"{name} {value}")
    paragraphs = [", ".join(items)]
    for name in SOURCES:
        # A random model has no source.
        if group.settings.get(name):
            label = name.removesuffix("_source").capitalize()
            paragraphs.append(f"{label}: {group.settings[name]}")
    text = "\n\n".join(paragraphs)
    return f"<details><summary>Settings</summary>\n\n{text}\n\n</details>"


def warning(group: Group) -> list[str]:
    """Return what must come first on a page of a smoke run; nothing for others."""
    return [SMOKE] if group.is_smoke else []


def group_section(
    group: Group, blocks: Sequence[Block], title: str | None = None
) -> Section:
    """Return a section on a group: its blocks between the warning and the settings.

    The title is the group's name unless another is passed.
    """
    complete = [*warning(group), *blocks, settings(group)]
    return Section(title or group.name, complete)


def measured_on(group: Group, error_kind: str = "none", metric: str = "") -> str:
    """Return a sentence on the metric, the examples, the seeds and what ± means."""
    metric = metric or primary_metric(group.first)
    split = metric.partition("/")[0]
    examples = group.first["examples"][split]
    seeds = ", ".join(map(str, group.seeds))
    sentence = f"{metric} in %, {examples:,} examples, seeds {seeds}"
    # Without an error there is no ± to explain.
    if ERRORS[error_kind]:
        sentence += f"; {ERRORS[error_kind]}"
    return f"{sentence}."


def grid_blocks(
    group: Group,
    scores: pd.DataFrame,
    down: str,
    across: str,
    notes: Sequence[Block] = (),
) -> list[Block]:
    """Return the blocks of a sweep over two settings: scores, parameters, means.

    `scores` is a table of `results.scores`, which may have columns of the paper's.
    `down` and `across` are the settings that its lines and columns are to have, and
    `notes` what is to stand below the scores.
    """
    texts = plus_minus(scores["score"], scores["error"])
    table = scores.assign(text=texts)
    # All runs have the same head: it is trained, but no part of the adapter.
    head = group.first["parameters"]["head"]
    prefix = "r = " if across == "rank" else f"{across} = "
    return [
        *warning(group),
        measured_on(group, scores["error of"].iloc[0]),
        pivot(table, down, across, "text", prefix=prefix),
        *notes,
        f"Trainable parameters of the adapter (the head's {head:,} apart):",
        pivot(table, down, across, "parameters", prefix=prefix),
        f"Mean over these values of {across}, in %, ours and the paper's:",
        means(scores, down).round(1),
        settings(group),
    ]


def render(
    path_stem: str | Path,
    *,
    markdown: str,
    table: pd.DataFrame,
    figure: Figure | None = None,
) -> list[Path]:
    """Write stem.md, stem.csv and, with a figure, stem.png; return their paths.

    This is for a page outside the experiments. Files whose bytes stay the same are not
    touched.
    """
    contents = {".md": markdown.encode(), ".csv": files.csv(table)}
    if figure is not None:
        contents[".png"] = files.png(figure)
    paths = []
    for suffix, content in contents.items():
        # Not `with_suffix`: a stem may have a dot, as `rank.sweep`.
        path = Path(f"{path_stem}{suffix}")
        files.write_if_changed(path, content)
        paths.append(path)
    return paths


def _agreement_text(report: Report, reference: Report) -> str:
    """The section that holds somebody's rows against the committed ones."""
    comparison = report.comparison
    # Not every experiment names the columns to compare by.
    if comparison is None or report.data is None or reference.data is None:
        return ""
    both = agreement(report.data, reference.data, comparison)
    parts = ["## Yours and the reference", verdict(both, comparison)]
    if not both.empty:
        parts.append(table(both))
    return "\n\n".join(parts)
