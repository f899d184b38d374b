"""Everything in one page: OUT/README.md, with every table and figure of ours beside the paper's, and the verdicts.

Made from rows alone: each experiment draws its own anew, and what they conclude is counted.

    python experiments/report.py
    python experiments/report.py --out runs
"""

import re
import runpy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from lora_jax import results
from lora_jax.experiment import cli, progress
from lora_jax.results import claims
from lora_jax.results.claims import Verdict

HERE = Path(__file__)


@dataclass(frozen=True)
class Config:
    """There is nothing to train: presets only say which folder."""

    preset: Literal["smoke", "quick", "full"] = "quick"
    out: Path = Path("results")
    """Folder of the rows; the page lands there too."""


PRESETS = {
    "smoke": Config("smoke", Path("results/smoke")),
    "quick": Config(),
    "full": Config("full"),
}


class Study(NamedTuple):
    """An experiment that has rows: its script's name, its docstring's first sentence, rows, what it drew, what it concludes."""

    name: str
    title: str
    rows: list[dict[str, Any]]
    text: str
    verdicts: list[Verdict]


def studies(out: Path) -> list[Study]:
    """The experiments with rows in `out`, each drawn anew."""
    found = []
    for path in sorted(HERE.parent.glob("*.py")):
        if path == HERE or not (rows := results.read(out / f"{path.stem}.jsonl")):
            continue
        script = runpy.run_path(str(path))
        script["render"](rows, out)
        title = " ".join(script["__doc__"].split("\n\n")[0].split())
        concluded = script["verdicts"](rows) if "verdicts" in script else []
        found.append(
            Study(
                path.stem, title, rows, (out / f"{path.stem}.md").read_text(), concluded
            )
        )
    return found


def page(found: Sequence[Study]) -> str:
    """The whole page, in Markdown."""
    return "\n".join(
        [HEADER, counts(found), ran(found), concluded(found), *map(section, found)]
    )


HEADER = """# Results

Every experiment of this folder on one page, made by `python experiments/report.py` from the rows (`*.jsonl`) alone.

**What compares.** A *value* (a parameter count, a size in bytes) means the same for the paper and for us, and must be equal. An
*effect* (a trend, which of two is higher) is looked for on another, much smaller model and other data: its numbers do not compare,
and an effect that is not seen is a finding.
"""


def counts(found: Sequence[Study]) -> str:
    """How often each experiment reached each verdict."""
    reached = {
        study.name: Counter(verdict.verdict for verdict in study.verdicts)
        for study in found
    }
    lines = [
        {
            "of": kind,
            "verdict": name,
            "meaning": meaning,
            **{study: at[name] for study, at in reached.items() if at},
        }
        for kind, known in (("value", claims.VALUES), ("effect", claims.EFFECTS))
        for name, meaning in known.items()
    ]
    return f"## Verdicts\n\n{results.markdown(pd.DataFrame(lines))}"


def ran(found: Sequence[Study]) -> str:
    """What ran when, on what, and for how long."""
    lines = []
    for study in found:
        said = [row["provenance"] for row in study.rows]
        machines = {
            f"{at['machine']['cpu']}, {at['machine']['cores']} cores, {at['machine']['backend']}"
            for at in said
        }
        spent = [
            row["seconds"]
            for row in study.rows
            if isinstance(row.get("seconds"), int | float)
        ]
        dates = sorted({at["date"][:10] for at in said})
        lines.append(
            {
                "experiment": f"[{study.name}](#{study.name.replace('_', '-')})",
                "rows": len(study.rows),
                "date": dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
                "time": progress.clock(sum(spent)) if spent else "",
                "commit": ", ".join(
                    sorted(
                        {at["commit"][:7] + ("+" if at["dirty"] else "") for at in said}
                    )
                ),
                "jax": ", ".join(sorted({at["versions"]["jax"] for at in said})),
                "machine": "; ".join(sorted(machines)),
            }
        )
    note = "`+` after a commit: the code had changes that were not in it.\n"
    return f"## What ran\n\n{results.markdown(pd.DataFrame(lines))}\n{note}"


def concluded(found: Sequence[Study]) -> str:
    """Every verdict in a line, but of experiments with more than a few: they have tables of their own below."""
    every = [
        {"experiment": study.name, **verdict._asdict()}
        for study in found
        for verdict in study.verdicts
        if len(study.verdicts) <= FEW
    ]
    return (
        f"## What came out\n\n{results.markdown(pd.DataFrame(every))}" if every else ""
    )


FEW = 40


def section(study: Study) -> str:
    """What an experiment drew, one level of headings down, under the name of its script."""
    body = re.sub(r"(?m)^# .*\n+", "", study.text, count=1)
    body = re.sub(r"(?m)^(#+ )", r"#\1", body)
    return f"## {study.name.replace('_', ' ')}\n\n*{study.title}*\n\n{body}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw everything anew and write the page.

    Raises:
        ValueError: the folder has no rows.
    """
    out = cli.line(Config, PRESETS, __doc__, arguments).out
    if not (found := studies(out)):
        raise ValueError(
            f"--out: expected a folder with rows of an experiment (*.jsonl), got {out}"
        )
    results.write(out / "README.md", page(found))
    print(f"wrote {out / 'README.md'}: {', '.join(study.name for study in found)}")


if __name__ == "__main__":
    cli.script(main)
