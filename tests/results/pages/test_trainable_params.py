"""The page on parameter counts: its tables from a few rows, and numbers in its text."""

import pytest

from lora_jax import accounting
from lora_jax.results import claims
from lora_jax.results.pages import trainable_params as page


def row(count, verdict=claims.EQUAL, *, tree=None, reason=""):
    """A row of a count of the paper, 2 % off if it is unexplained."""
    metrics = {"count/closed_form": 1000.0}
    if tree is not None:
        metrics["count/tree"] = tree
    return {
        "config": page.settings(count),
        "metrics": metrics,
        "verdict": verdict,
        "difference_percent": 2.0,
        "reason": reason,
    }


@pytest.fixture(scope="module")
def paper_counts():
    return list(page.counts_by_identity().values())


def chosen(paper_counts, **settings):
    """The first count that has these settings."""
    for count in paper_counts:
        if settings.items() <= count._asdict().items():
            return count
    raise AssertionError(settings)


@pytest.fixture
def counts(paper_counts):
    """One that follows, on the tree too; two unexplained; and one that is fitted."""
    full = chosen(paper_counts, table=15, method="Fine-Tune")
    prefixes = [count for count in paper_counts if count.method == "PrefixLayer"]
    fitted = chosen(paper_counts, table=2, known="fitted")
    rows = [
        row(fitted),
        row(prefixes[1], claims.UNEXPLAINED, reason="nobody knows"),
        row(prefixes[0], claims.UNEXPLAINED, reason="nobody knows"),
        row(full, tree=1000.0),
    ]
    return page.count_table(rows)


def test_counts_stand_in_the_papers_order(counts):
    assert list(counts.table) == [15, 15, 15, 2]
    assert list(counts.published)[:3] == ["175B", "5.1M", "10.1M"]
    assert list(counts["closed form"]) == [1000] * 4
    assert counts.tree.isna().tolist() == [False, True, True, True]


def test_verdicts_are_counted_and_fitted_ones_apart(counts):
    lines = page.verdict_table(counts).to_dict("records")
    numbers = [list(line.values()) for line in lines]
    # Counts, equal, truncated, unexplained, fitted, on the tree, alike.
    assert numbers == [
        ["Table 15", 3, 1, 0, 2, 0, 1, 1],
        ["Table 2", 1, 0, 0, 0, 1, 0, 0],
        ["all", 4, 1, 0, 2, 1, 1, 1],
    ]


def test_a_text_has_the_source_of_settings_and_the_reasons(counts):
    first, second = page.table_sections(counts)
    assert (first.title, second.title) == ("Table 15", "Table 2")
    (text,) = first.blocks
    assert "unexplained, +2.00 %" in text
    assert "- GPT-3 175B PrefixLayer, 5.1M, 10.1M: nobody knows.\n" in text
    (text,) = second.blocks
    assert "(fitted)" in text
    assert "Unexplained" not in text


def test_tables_that_print_the_same_share_a_section(paper_counts):
    rows = []
    for table in (13, 14):
        rows.append(row(chosen(paper_counts, table=table, method="LoRA")))
    (section,) = page.table_sections(page.count_table(rows))
    assert section.title == "Table 13 and Table 14"


def test_each_size_of_lora_has_one_line_of_ranks(paper_counts):
    loras = [count for count in paper_counts if count.method == "LoRA"]
    table = page.count_table([row(count) for count in loras[:2]])
    ranks = page.rank_table(table, lambda *case: f"{case[0]} on {case[2]}")
    assert len(ranks) == 1
    assert ranks["query,value"].iloc[0] == "1000 on query,value"


def test_a_fitted_count_is_a_fitted_claim(counts):
    result = page.count_claims(counts)
    assert result[0].statement == "GPT-3 175B Fine-Tune -: 175B"
    assert (result[0].source, result[0].evidence) == ("LoRA Table 15", "1,000")
    verdicts = [claim.verdict for claim in result]
    assert verdicts == [
        claims.EQUAL,
        claims.UNEXPLAINED,
        claims.UNEXPLAINED,
        claims.FITTED,
    ]


def test_numbers_in_the_text_are_what_is_counted():
    text = " ".join(page.CONTRADICTIONS.split())
    deberta = accounting.LoRA("query,value", 8)
    four = accounting.LoRA("query,key,value,output", 2)
    deberta_count = accounting.trainable_parameters(deberta, "deberta-v2-xxl")
    four_count = accounting.trainable_parameters(four, "gpt3-175b")
    assert f"{deberta_count:,}" == "2,359,296"
    assert "has 2,359,296" in text
    assert f"{four_count:,}" == "18,874,368"
    assert "has 18,874,368" in text
