"""The page of Table 18 on made-up rows."""

import pytest

from lora_jax import paper
from lora_jax.results import groups
from lora_jax.results.pages import rank_sweep_nlg as page

PUBLISHED = paper.lora.table18()


def row(rank, bleu, data="e2e"):
    """A row of 16 trained-on records and 4 scored sources."""
    config = {"data": data, "model": "small", "method": "lora", "epochs": 1}
    config |= {"targets": "query,value", "rank": rank, "seed": 0}
    return {
        "key": str(rank),
        "config": config,
        "metrics": {"validation/loss": 1.2345, "test/bleu": bleu},
        "examples": {"train": 16, "validation": 2, "test": 4},
        "parameters": {"adapter": 100 * rank, "head": 0},
        "written": {"test": {"tokens_per_second": 5.0, "missing": {}}},
        "tokens_per_second": 10.0,
        "seconds": 1.0,
        "curve": [],
    }


def group_of(rows):
    (group,) = groups(rows, axes=("targets", "rank", "seed"))
    return group


def note(metric):
    return "ours" if metric == "bleu" else None


@pytest.fixture
def group():
    return group_of([row(4, 0.5), row(1, 0.25), row(3, 0.75)])


def test_the_paper_has_its_scores_at_the_same_rank(group):
    table = page.sweep_table(group, PUBLISHED)
    assert list(table["rank"]) == [1, 3, 4]
    assert list(table["test/bleu"]) == [25, 75, 50]
    # It did not train r = 3.
    assert list(table["paper test/bleu"].fillna(0)) == [68.72, 0, 70.38]
    assert "paper test/meteor" not in table


def test_other_data_has_nothing_of_the_paper():
    mine = group_of([row(1, 0.25, data="mine")])
    table = page.sweep_table(mine, PUBLISHED)
    assert not [name for name in table if name.startswith("paper ")]
    assert "GPT-2" not in page.blocks(mine, table, note)[0]


def test_scores_are_text_in_the_papers_precision(group):
    table = page.sweep_table(group, PUBLISHED)
    line = page.score_table(group, table).iloc[0]
    # Targets, rank and parameters come first.
    assert list(line)[3:] == ["1.234", "25.00", "1.230", "68.72"]


def test_the_first_paragraph_has_sizes_units_and_notes(group):
    table = page.sweep_table(group, PUBLISHED)
    paragraph = page.blocks(group, table, note)[0]
    assert "Trained on 16 rows" in paragraph
    assert "The paper's numbers are GPT-2 medium's. bleu: ours." in paragraph


def test_a_score_that_table_18_lacks_has_one_panel(group):
    table = page.sweep_table(group, PUBLISHED)
    assert len(page.figure(table).axes) == 2
    other = table.assign(metric="test/exact_match")
    assert len(page.figure(other).axes) == 1
