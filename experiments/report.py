"""All experiments on one index, drawn again from their rows alone.

    python experiments/report.py                  # the committed pages, from reference rows
    python experiments/report.py --out results    # the pages of your own rows

Without --out it draws results/reference/*/README.md, the index results/README.md, and
the table in the repository's README.md.
"""

import lora_jax.interrupts  # noqa: F401
import importlib
from dataclasses import dataclass
from pathlib import Path

import tyro

from lora_jax.experiment import Experiment, process
from lora_jax.experiment.experiment import REFERENCE, REPOSITORY
from lora_jax.results import files, index

RESULTS = REPOSITORY / "results"


@dataclass(frozen=True)
class Options:
    out: Path | None = None
    """Folder of rows; the committed reference rows without it."""
    preset: str = "quick"
    """Without --out, smoke draws the rows in results/smoke instead."""


def experiments() -> list[Experiment]:
    """The experiments of this folder, by name."""
    values = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        # This file is no experiment.
        if path.stem != Path(__file__).stem:
            values.append(importlib.import_module(path.stem).EXPERIMENT)
    return values


def entries(folder: Path) -> list[index.Entry]:
    """Draw every experiment that has rows in the folder, and return what it shows."""
    result = []
    for experiment in experiments():
        # Somebody's own folder need not have all of them.
        rows = experiment.rows(folder)
        if rows:
            experiment.draw(folder)
            report = experiment.report(rows)
            entry = index.Entry(experiment.name, experiment.question, report, rows)
            result.append(entry)
    return result


def main(arguments: list[str] | None = None) -> None:
    """Draw the pages and the index.

    Raises:
        ValueError: the folder has no rows of any experiment.
    """
    options = tyro.cli(Options, args=arguments, description=__doc__)
    reference = RESULTS / REFERENCE
    # Where the experiments' own flags put their rows.
    default = RESULTS / "smoke" if options.preset == "smoke" else reference
    folder = options.out or default
    drawn = entries(folder)
    if not drawn:
        raise ValueError(
            f"--out: expected a folder with rows of an experiment (*.jsonl), got "
            f"{folder}"
        )
    # The index of the reference rows lies above their folder, where it is looked for.
    is_reference = folder.resolve() == reference.resolve()
    path = RESULTS / "README.md" if is_reference else folder / "index.md"
    pages = REFERENCE if is_reference else "."
    intro = index.INTRO if is_reference else index.INTRO_OF_YOURS
    text = index.markdown(drawn, pages, intro=intro)
    files.write_if_changed(path, text.encode())
    # The README shows the reference alone.
    if is_reference:
        index.update_readme(REPOSITORY / "README.md", drawn, f"results/{REFERENCE}")
    print(f"wrote {path}: {', '.join(entry.name for entry in drawn)}")


if __name__ == "__main__":
    process.run_main(main)
