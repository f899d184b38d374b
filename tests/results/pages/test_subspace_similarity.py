"""The sections, claims and figures of made-up comparisons."""

import pytest

from lora_jax.results.pages import subspace_similarity as page


def row(comparison, matrix="query", side="input", phi=((0.5, 0.4), (0.4, 0.3))):
    """A row of one layer: two ranks, or two seeds and random matrices."""
    run = {"model": "small", "data": "films", "rank": 2, "seed": 0}
    is_rank = comparison == "rank"
    config = {
        "comparison": comparison,
        "matrix": f"blocks/attention/{matrix}",
        "side": side,
        "left": run,
        "right": {**run, "rank": 4} if is_rank else {**run, "seed": 1},
    }
    return {
        "key": f"{comparison} {matrix} {side}",
        "config": config,
        "dimension": 100,
        "phi": [list(map(list, phi))],
    }


ROWS = [
    row("rank", side="output"),
    row("rank"),
    row("rank", "value"),
    row("seed"),
    row("random", phi=((0.01, 0.02), (0.02, 0.02))),
]


def test_a_comparison_without_rows_is_left_out():
    kinds = [kind for kind, _ in page.comparisons(ROWS)]
    assert kinds == ["rank", "seed"]
    ((kind, groups),) = page.comparisons(ROWS[3:])
    assert kind == "seed"
    assert len(groups) == 1


def sections(kind):
    return page.sections(kind, page.groups_of(ROWS, kind))


def test_random_matrices_belong_to_the_seeds():
    (seeds,) = page.groups_of(ROWS, "seed")
    compared = {row["config"]["comparison"] for row in seeds.rows}
    assert compared == {"seed", "random"}


def test_a_section_is_headed_by_what_is_compared_the_input_side_first():
    assert [section.title for section in sections("rank")] == [
        "Two ranks: r = 2 seed 0 against r = 4 seed 0, input side",
        "Two ranks: r = 2 seed 0 against r = 4 seed 0, output side",
    ]
    (seeds,) = sections("seed")
    assert seeds.title == "Two seeds: r = 2 seed 0 against r = 2 seed 1, input side"


def test_the_paper_is_checked_once():
    first, second = sections("rank")
    assert first.blocks[0].startswith("The paper's maps in the same tests: two ranks")
    assert first.blocks[1] == second.blocks[0]
    assert first.blocks[1].startswith("small, films. n = r")


def test_n_is_the_last_column():
    (seeds,) = sections("seed")
    heading = seeds.blocks[2].splitlines()[0]
    # Ours is of r = 2, the paper's of r = 64.
    titles = [title.strip() for title in heading.strip("| ").split("|")]
    assert titles == [
        *("source", "matrix", "layer", "φ(1,1)", "φ(2,2)"),
        *("φ(4,4)", "φ(8,8)", "φ(16,16)", "φ(32,32)", "φ(64,64)", "n"),
    ]


@pytest.mark.parametrize(
    ("kind", "suffixes"),
    [("rank", ["", "layers"]), ("seed", ["seeds", "seeds_layers"])],
)
def test_claims_and_figures_are_of_one_group(kind, suffixes):
    group = page.groups_of(ROWS, kind)[0]
    assert list(page.figures(kind, group)) == suffixes
    claim = page.group_claims(kind, group)[0]
    assert claim.source == page.SOURCES[kind]
    assert claim.evidence == ("2 of 2" if kind == "rank" else "1 of 1")
