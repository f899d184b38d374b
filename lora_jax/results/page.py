"""The index of all experiments: what each asks, what came out, and its page."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lora_jax.results import files
from lora_jax.results.claims import EFFECTS, VALUES, Claim
from lora_jax.results.report import Report, clock, table
from lora_jax.results.rows import Row

SHOWN_CLAIMS = 3  # of an experiment; its page has all of them
MARKERS = ("<!-- results -->", "<!-- /results -->")

INTRO = """# Results

Every experiment, drawn from the reference rows that are committed with the repository by
`python experiments/report.py`. Your own rows go to `results/`; their pages show the
reference beside them.

A *value* (a parameter count, a size in bytes) means the same for the paper and for us,
and must be equal. An *effect* (which of two is higher) is looked for on another, much
smaller model and other data: its numbers do not compare, and an effect that is not
reproduced is a finding.
"""


class Entry(NamedTuple):
    """One experiment that has rows."""

    name: str
    question: str
    report: Report
    rows: list[Row]


def index(entries: Sequence[Entry], pictures: Sequence[str], folder: str) -> str:
    """Return the index; `folder` is where the experiments' pages lie."""
    parts = [INTRO, "## Verdicts", table(verdict_table(entries))]
    parts += ["## Experiments", table(experiment_table(entries, folder))]
    by_name = {entry.name: entry for entry in entries}
    for name in pictures:
        if name in by_name and by_name[name].report.figures:
            question = by_name[name].question
            page = f"{folder}/{name}/README.md"
            parts.append(f"**[{question}]({page})**")
            parts.append(f"![{name}]({folder}/{name}/figure.png)")
    parts += ["## What ran", table(provenance_table(entries)), DIRTY]
    return "\n\n".join(part.strip() for part in parts) + "\n"


DIRTY = "`+` after a commit: the code had changes that were not in it."


def glance(entries: Sequence[Entry], folder: str) -> str:
    """Return the README's table: one line for each experiment with claims."""
    lines = []
    for entry in entries:
        if entry.report.claims:
            claim = entry.report.claims[0]
            link = f"[{entry.name}]({folder}/{entry.name}/README.md)"
            line = {"experiment": link, "paper": f"{claim.source}: {claim.statement}"}
            lines.append({**line, "ours": claim.evidence, "verdict": claim.verdict})
        else:
            link = f"[{entry.name}]({folder}/{entry.name}/README.md)"
            line = {"experiment": link, "paper": "no published number"}
            lines.append({**line, "ours": entry.question, "verdict": ""})
    return table(pd.DataFrame(lines))


def insert_between_markers(text: str, content: str) -> str:
    """Return the text with the content between the two markers.

    Raises:
        ValueError: a marker is missing.
    """
    start, end = MARKERS
    if start not in text or end not in text:
        raise ValueError(f"expected a text with {start} and {end}")
    head, _, rest_of_text = text.partition(start)
    _, _, tail = rest_of_text.partition(end)
    return f"{head}{start}\n\n{content.strip()}\n\n{end}{tail}"


def update_readme(path: Path, entries: Sequence[Entry], folder: str) -> None:
    """Put the table of results into a README that has the markers."""
    text = path.read_text(encoding="utf-8")
    if MARKERS[0] in text:
        new = insert_between_markers(text, glance(entries, folder))
        files.write_if_changed(path, new.encode())


def verdict_table(entries: Sequence[Entry]) -> pd.DataFrame:
    """Count the verdicts of each kind."""
    counts: Counter[str] = Counter()
    for entry in entries:
        counts.update(claim.verdict for claim in entry.report.claims)
    lines = []
    for kind, meanings in (("value", VALUES), ("effect", EFFECTS)):
        for verdict, meaning in meanings.items():
            line = {"of": kind, "verdict": verdict, "count": counts[verdict]}
            lines.append({**line, "meaning": meaning})
    return pd.DataFrame(lines)


def experiment_table(entries: Sequence[Entry], folder: str) -> pd.DataFrame:
    """A line for each experiment: question, verdicts, and its page."""
    lines = []
    for entry in entries:
        link = f"[{entry.name}]({folder}/{entry.name}/README.md)"
        line = {"experiment": link, "question": entry.question}
        lines.append({**line, "claims": claims_text(entry.report.claims)})
    return pd.DataFrame(lines)


def claims_text(claims: Sequence[Claim]) -> str:
    """`3 reproduced, 1 not reproduced`; nothing where the paper has no number."""
    counts = Counter(claim.verdict for claim in claims)
    order = [*VALUES, *EFFECTS]
    known = [verdict for verdict in order if counts[verdict]]
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in known)


def provenance_table(entries: Sequence[Entry]) -> pd.DataFrame:
    """What ran when, on what, and for how long."""
    lines = []
    for entry in entries:
        origins = [row["provenance"] for row in entry.rows]
        dates = sorted({origin["date"][:10] for origin in origins})
        line = {"experiment": entry.name, "rows": len(entry.rows)}
        line["date"] = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        line["time"] = _time(entry.rows)
        line["commit"] = ", ".join(sorted({_commit(origin) for origin in origins}))
        line["jax"] = ", ".join(sorted({o["versions"]["jax"] for o in origins}))
        line["machine"] = "; ".join(sorted({_machine(origin) for origin in origins}))
        lines.append(line)
    return pd.DataFrame(lines)


def _time(rows: Sequence[Row]) -> str:
    seconds = [row.get("seconds") for row in rows]
    numbers = [value for value in seconds if isinstance(value, int | float)]
    return clock(sum(numbers)) if numbers else ""


def _commit(origin: Row) -> str:
    return origin["commit"][:7] + ("+" if origin["dirty"] else "")


def _machine(origin: Row) -> str:
    machine = origin["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['backend']}"
