"""The code reads at the first pass, as far as numbers can say; `style.py` counts.

`GOAL` holds for the files of each package together.
"""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests import style

ROOT = Path(__file__).resolve().parents[1]


class Bounds(NamedTuple):
    """What the files of a package may come to together."""

    density: float  # at most: the median over the files
    comprehensions: float  # at most: for each 1,000 lines
    comments: float  # at least: percent of the lines


GOAL = Bounds(density=9, comprehensions=30, comments=6)


def files_by_package() -> dict[str, list[Path]]:
    """The library's and the experiments' files by their package."""
    packages: dict[str, list[Path]] = {}
    for path in style.files([ROOT / "lora_jax", ROOT / "experiments"]):
        name = style.package(path.relative_to(ROOT))
        packages.setdefault(name, []).append(path)
    return packages


FILES = files_by_package()


def stumbles(path: Path) -> list[str]:
    """What a reader stumbles over in a file, a line each."""
    counts = style.measure(path)
    place = path.relative_to(ROOT)
    lines = []
    for line in counts.nested:
        lines.append(f"{place}:{line}: a comprehension inside a comprehension")
    for line in counts.conditionals:
        lines.append(f"{place}:{line}: a conditional expression inside another")
    for line, name in counts.fillers:
        lines.append(f"{place}:{line}: the name {name!r} says nothing")
    for line, spelling in style.british_spellings(path):
        lines.append(f"{place}:{line}: British spelling {spelling!r}")
    return lines


@pytest.mark.parametrize("package", FILES)
def test_a_package_is_no_denser_than_its_bounds(package):
    summary = style.summarize(map(style.measure, FILES[package]))
    assert summary.density <= GOAL.density
    assert summary.comprehensions <= GOAL.comprehensions
    assert summary.comments >= GOAL.comments


@pytest.mark.parametrize("package", FILES)
def test_a_package_has_nothing_to_stumble_over(package):
    lines = []
    for path in FILES[package]:
        lines += stumbles(path)
    assert not lines, "\n" + "\n".join(lines)


@pytest.mark.parametrize("folder", ["lora_jax", "experiments"])
def test_half_of_the_files_are_no_denser_than_the_goal(folder):
    summary = style.summarize(map(style.measure, style.files([ROOT / folder])))
    assert summary.density <= GOAL.density


def test_prose_is_spelled_as_the_code():
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("tests/**/*.py"),
    ]
    lines = []
    for path in sorted(pages):
        # The list of British spellings itself, and this test.
        if path.name in ("style.py", "test_style.py"):
            continue
        for line, spelling in style.british_spellings(path):
            lines.append(f"{path.relative_to(ROOT)}:{line}: {spelling}")
    assert not lines, "\n" + "\n".join(lines)


SAMPLE = '''
"""A docstring
of two lines."""

# Why it is so.
found = [[x for x in row] for row in rows]  # noqa
def colour(n: int):
    return 1 if n else 2 if rows else 3
'''


def test_what_is_counted(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    counts = style.measure(path)
    assert (counts.lines, counts.code_lines, counts.comment_lines) == (8, 3, 1)
    assert (counts.comprehensions, counts.nested, counts.conditionals) == (2, [6], [8])
    assert counts.fillers == [(6, "found")]
    assert counts.longest_function == (2, "colour")
    assert style.british_spellings(path) == [(7, "colour")]
    # Hand count: every node of the module, its docstring included.
    assert counts.nodes == 35
    summary = style.summarize([counts, counts])
    assert summary.density == pytest.approx(35 / 3)
    assert summary.comprehensions == 250
    assert summary.comments == pytest.approx(12.5)


EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_script_has_60_to_120_lines(path):
    """Grid, measurement, and what is particular to its page; the rest is the library's."""
    assert 60 <= len(path.read_text(encoding="utf-8").splitlines()) <= 120
