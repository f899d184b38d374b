"""The code reads at the first pass, as far as numbers can say; `style.py` counts.

`GOAL` holds for all packages but those of `NOT_YET`, which have bounds of their own that
are only ever tightened. A package that reaches the goal leaves the table.
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
    stumbles: int = 0  # at most: filler names, British spellings, nesting


GOAL = Bounds(density=9, comprehensions=30, comments=6)

NOT_YET: dict[str, Bounds] = {
    # Comments are still to be written.
    "experiments": GOAL._replace(comments=1.2),
}


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
    bounds = NOT_YET.get(package, GOAL)
    summary = style.summarize(map(style.measure, FILES[package]))
    assert summary.density <= bounds.density
    assert summary.comprehensions <= bounds.comprehensions
    assert summary.comments >= bounds.comments


@pytest.mark.parametrize("package", FILES)
def test_a_package_has_nothing_to_stumble_over(package):
    bounds = NOT_YET.get(package, GOAL)
    lines = []
    for path in FILES[package]:
        lines += stumbles(path)
    assert len(lines) <= bounds.stumbles, "\n" + "\n".join(lines)


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


def test_not_yet_names_packages_that_are_there():
    assert set(NOT_YET) <= set(FILES)


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
