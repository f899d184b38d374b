"""From rows to what people read: a data frame, a summary over seeds, and the .md, .csv and .png files.

Everything depends on the set of rows alone, neither on their order nor on the clock, so that a run interrupted and
resumed renders the same bytes as one that never stopped.
"""

import io
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One line per row, sorted by key: the fields of its config (nested: `a.b`; lists: `x, y`), then its metrics."""
    rows = sorted(rows, key=lambda row: row["key"])
    metrics = pd.DataFrame([row["metrics"] for row in rows], dtype=float)
    return _settings(rows).join(metrics)


def summary(
    rows: Iterable[Mapping[str, Any]],
    *,
    by: Sequence[str],
    metric: str,
    n: int | None = None,
) -> pd.DataFrame:
    """Over seeds, one line per value of `by`: mean, std (ddof 1), count, failed (no value), error, error_kind.

    `error` is std / sqrt(count) over several seeds ("seeds"); for one seed and an accuracy (a fraction) the binomial
    sqrt(p (1 - p) / n) ("binomial"), n being the evaluated examples, from the row unless given; else NaN ("none").
    Raises ValueError for unknown names, and when a group mixes runs that differ in more than fields named `*seed`.
    """
    rows, by = sorted(rows, key=lambda row: row["key"]), list(by)
    settings, (split, _, name) = _settings(rows), metric.rpartition("/")
    _known(by, settings)
    _known([metric], frame(rows))
    groups = settings.groupby(by, dropna=False)
    values = groups.nunique(dropna=False)
    if mixed := [
        field
        for field in values
        if any(values[field] > 1) and not str(field).endswith("seed")
    ]:
        raise ValueError(
            f"a group by {by} mixes runs that differ in {mixed}: add these, or choose the rows first"
        )
    lines = []
    for _, group in groups:
        runs = [
            (
                rows[i]["metrics"].get(metric),
                n or rows[i].get("examples", {}).get(split),
            )
            for i in group.index
        ]
        lines.append(
            _spread(
                [run for run in runs if run[0] is not None],
                len(runs),
                name == "accuracy",
            )
        )
    return groups.size().index.to_frame(index=False).join(pd.DataFrame(lines))


def write(path: str | Path, content: str | bytes) -> None:
    """Write a whole file or, when anything fails, nothing: under a temporary name beside it, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def markdown(
    table: pd.DataFrame,
    *,
    align: Mapping[str, str] | None = None,
    digits: int | Mapping[str, int] | None = None,
) -> str:
    """A padded pipe table, without the index; a missing value is an empty cell.

    align: column -> "left" or "right" (numbers right, the rest left). digits: decimals of floats, for all or by column.
    Raises ValueError for a column that is not there or another alignment.
    """
    align = dict(align or {})
    places = (
        dict(digits)
        if isinstance(digits, Mapping)
        else dict.fromkeys(table.columns, digits)
    )
    _known([*align, *places], table)
    if wrong := {
        name: side for name, side in align.items() if side not in ("left", "right")
    }:
        raise ValueError(f"align: expected left or right, got {wrong}")
    columns = []
    for name in table.columns:
        cells = [
            _cell(name, None),
            *(_cell(value, places.get(name)) for value in table[name]),
        ]
        right = (
            align.get(
                name, "right" if pd.api.types.is_numeric_dtype(table[name]) else "left"
            )
            == "right"
        )
        width = max(3, *map(len, cells))
        cells = [cell.rjust(width) if right else cell.ljust(width) for cell in cells]
        columns.append(
            [cells[0], "-" * (width - 1) + (":" if right else "-"), *cells[1:]]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in zip(*columns, strict=True))


def render(
    path_stem: str | Path,
    *,
    markdown: str,
    table: pd.DataFrame,
    figure: Figure | None = None,
) -> list[Path]:
    """Write `stem.md`, `stem.csv` and, with a figure, `stem.png`, each only when its bytes change; their paths."""
    csv = table.to_csv(index=False, lineterminator="\n", float_format="%.10g")
    contents = {".md": markdown.encode(), ".csv": csv.encode()}
    if figure is not None:
        contents[".png"] = png(figure)
    paths = [Path(f"{path_stem}{suffix}") for suffix in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        if not path.exists() or path.read_bytes() != content:
            write(path, content)
    return paths


def png(figure: Figure) -> bytes:
    """The figure's file, the same bytes for the same figure."""
    image = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a personal matplotlibrc must not change committed figures
        figure.savefig(
            image, format="png", dpi=150, facecolor="white", metadata={"Software": None}
        )
    return image.getvalue()


def _settings(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    configs = pd.json_normalize([dict(row["config"]) for row in rows])
    return configs.map(
        lambda value: (
            ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        )
    )


def _spread(
    runs: Sequence[tuple[float, int | None]], started: int, accuracy: bool
) -> dict[str, Any]:
    values = [value for value, _ in runs]
    count, std, error, kind = len(runs), math.nan, math.nan, "none"
    if count > 1:
        std = statistics.stdev(values)
        error, kind = std / math.sqrt(count), "seeds"
    elif count == 1 and accuracy and (size := runs[0][1]):
        p = values[0]
        if not 0 <= p <= 1:
            raise ValueError(
                f"expected an accuracy as a fraction between 0 and 1, got {p}"
            )
        error, kind = math.sqrt(p * (1 - p) / size), "binomial"
    mean = statistics.fmean(values) if values else math.nan
    return {
        "mean": mean,
        "std": std,
        "count": count,
        "failed": started - count,
        "error": error,
        "error_kind": kind,
    }


def _known(names: Sequence[str], table: pd.DataFrame) -> None:
    if unknown := [name for name in names if name not in table.columns]:
        raise ValueError(
            f"unknown column {', '.join(map(repr, unknown))}; there are {', '.join(map(str, table.columns))}"
        )


def _cell(value: Any, places: int | None) -> str:
    if (
        value is None
        or value is pd.NA
        or (isinstance(value, float) and math.isnan(value))
    ):
        return ""
    if isinstance(value, float):
        return f"{value:.10g}" if places is None else f"{value:.{places}f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
