"""The index of all experiments: what each asks, what came out, and its page."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lora_jax.results import files
from lora_jax.results.claims import EFFECTS, VALUES, Claim
from lora_jax.results.report import Report, clock, picture_parts, table
from lora_jax.results.rows import Row

# Around the table in the README; what is between them is replaced.
MARKERS = ("<!-- results -->", "<!-- /results -->")

DIRTY = "`+` after a commit: the code had changes that were not in it."
INTRO = """# Results

Every experiment, drawn from the reference rows that are committed with the repository by
`python experiments/report.py`. Your own rows go to `results/`; their pages show the
reference beside them.

A *value* (a parameter count, a size in bytes) means the same for the paper and for us,
and must be equal. An *effect* (which of two is higher) is looked for on another, much
smaller model and other data: its numbers do not compare, and an effect that is not
reproduced is a finding.
"""
INTRO_OF_YOURS = """# Your results

Every experiment that has rows in this folder. Each page shows the reference rows, which
are committed with the repository, beside yours.
"""


class Entry(NamedTuple):
    """One experiment that has rows."""

    name: str
    question: str
    report: Report
    rows: list[Row]


def markdown(entries: Sequence[Entry], folder: str, *, intro: str = INTRO) -> str:
    """Return the index; `folder` is where the experiments' pages lie."""
    parts = [
        intro,
        "## Verdicts",
        table(verdict_table(entries)),
        "## Experiments",
        table(experiment_table(entries, folder)),
        "## Pictures",
        *_picture_parts(entries, folder),
        "## What ran",
        table(provenance_table(entries)),
        DIRTY,
    ]
    # Tables end with a line break of their own.
    texts = [part.strip() for part in parts]
    return "\n\n".join(texts) + "\n"


def glance(entries: Sequence[Entry], folder: str) -> str:
    """Return the README's table: one line for each experiment that tests a claim."""
    lines = []
    for entry in entries:
        claims = entry.report.claims
        # Our own questions are in the index.
        if claims:
            claim = headline(entry.report)
            line = {
                "experiment": _link(entry, folder),
                "the paper": f"{claim.source}: {claim.statement}",
                "ours": claim.evidence,
                "verdict": claim.verdict,
                "all claims": claims_text(claims),
            }
            lines.append(line)
    return table(pd.DataFrame(lines))


def headline(report: Report) -> Claim:
    """Return the claim that stands for all: the one that the report names, or the first."""
    for claim in report.claims:
        if report.headline in claim.statement:
            return claim
    # Rows of other settings may lack the one that is named.
    return report.claims[0]


def insert_between_markers(text: str, content: str) -> str:
    """Return the text with the content between the two markers.

    Raises:
        ValueError: a marker is missing.
    """
    start, end = MARKERS
    if start not in text or end not in text:
        raise ValueError(f"expected a text with {start} and {end}")
    # The markers stay, for the next time.
    head, _, after_start = text.partition(start)
    _, _, tail = after_start.partition(end)
    return f"{head}{start}\n\n{content.strip()}\n\n{end}{tail}"


def update_readme(path: Path, entries: Sequence[Entry], folder: str) -> None:
    """Put the table of results into a README that has the markers."""
    text = path.read_text(encoding="utf-8")
    # A README may do without the table.
    if MARKERS[0] in text:
        new = insert_between_markers(text, glance(entries, folder))
        files.write_if_changed(path, new.encode())


def verdict_table(entries: Sequence[Entry]) -> pd.DataFrame:
    """Count the verdicts of each kind."""
    counts: Counter[str] = Counter()
    for entry in entries:
        for claim in entry.report.claims:
            counts[claim.verdict] += 1
    # Verdicts that no claim has are listed too, with 0.
    lines = []
    for kind, meanings in (("value", VALUES), ("effect", EFFECTS)):
        for verdict, meaning in meanings.items():
            line = {
                "of": kind,
                "verdict": verdict,
                "count": counts[verdict],
                "meaning": meaning,
            }
            lines.append(line)
    return pd.DataFrame(lines)


def experiment_table(entries: Sequence[Entry], folder: str) -> pd.DataFrame:
    """A line for each experiment: question, verdicts, and its page."""
    # In words: one column for each verdict would be wide and mostly empty.
    lines = []
    for entry in entries:
        line = {
            "experiment": _link(entry, folder),
            "question": entry.question,
            "claims": claims_text(entry.report.claims),
        }
        lines.append(line)
    return pd.DataFrame(lines)


def claims_text(claims: Sequence[Claim]) -> str:
    """`3 reproduced, 1 not reproduced`; nothing where the paper has no number."""
    counts = Counter(claim.verdict for claim in claims)
    texts = []
    # From the best verdict to the worst, in either kind.
    for verdict in (*VALUES, *EFFECTS):
        if counts[verdict]:
            texts.append(f"{counts[verdict]} {verdict}")
    return ", ".join(texts)


def provenance_table(entries: Sequence[Entry]) -> pd.DataFrame:
    """What ran when, on what, and for how long."""
    lines = []
    for entry in entries:
        # Rows of one experiment may come from several days and machines.
        origins = [row["provenance"] for row in entry.rows]
        line = {
            "experiment": entry.name,
            "rows": len(entry.rows),
            "date": _dates(origins),
            "time": _time(entry.rows),
            "commit": ", ".join(_distinct(_commit, origins)),
            "jax": ", ".join(_distinct(_jax_version, origins)),
            "machine": "; ".join(_distinct(_machine, origins)),
        }
        lines.append(line)
    return pd.DataFrame(lines)


def _picture_parts(entries: Sequence[Entry], folder: str) -> list[str]:
    """All figures, each experiment's under its question."""
    parts = []
    for entry in entries:
        if entry.report.figures:
            place = f"{folder}/{entry.name}"
            parts.append(f"**[{entry.question}]({place}/README.md)**")
            parts += picture_parts(entry.report, f"{place}/")
    return parts


def _link(entry: Entry, folder: str) -> str:
    return f"[{entry.name}]({folder}/{entry.name}/README.md)"


def _distinct(text: Callable[[Row], str], origins: Sequence[Row]) -> list[str]:
    """The texts of all origins, sorted, so that the order of rows does not matter."""
    return sorted(set(map(text, origins)))


def _dates(origins: Sequence[Row]) -> str:
    """`2025-01-31`, or the first and the last date."""
    dates = _distinct(_date, origins)
    if len(dates) == 1:
        return dates[0]
    return f"{dates[0]} to {dates[-1]}"


def _date(origin: Row) -> str:
    # Without the time of day.
    return origin["date"][:10]


def _jax_version(origin: Row) -> str:
    return origin["versions"]["jax"]


def _time(rows: Sequence[Row]) -> str:
    """How long all rows took; nothing where none says."""
    numbers = []
    for row in rows:
        seconds = row.get("seconds")
        # Not every row has one number of seconds.
        if isinstance(seconds, int | float):
            numbers.append(seconds)
    return clock(sum(numbers)) if numbers else ""


def _commit(origin: Row) -> str:
    # As `DIRTY` explains on the page.
    mark = "+" if origin["dirty"] else ""
    return origin["commit"][:7] + mark


def _machine(origin: Row) -> str:
    machine = origin["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['backend']}"
