"""Table 6's claims on made-up scores, and the paper's own table."""

import math

import pandas as pd
import pytest

from lora_jax import paper
from lora_jax.results import claims
from lora_jax.results.pages import rank_sweep as page


def test_claims_compare_means_over_ranks_and_the_lowest_with_the_highest_rank():
    lines = []
    scores = {"query": (60.0, 64.0), "query,value": (70.0, 66.0)}
    for targets, (low, high) in scores.items():
        lines.append({"targets": targets, "rank": 1, "score": low, "error": 1.0})
        lines.append({"targets": targets, "rank": 64, "score": high, "error": 1.0})
    result = page.table6_claims(pd.DataFrame(lines))
    assert [(claim.statement, claim.verdict) for claim in result] == [
        ("{query,value} is above {query}, mean over ranks", claims.REPRODUCED),
        ("r = 1 does as well as r = 64 with {query}", claims.NOT_REPRODUCED),
        ("r = 1 does as well as r = 64 with {query,value}", claims.REPRODUCED),
    ]
    assert result[0].evidence == "68.0 against 62.0 ± 1.0 %"


@pytest.mark.parametrize("rank", [4, math.nan])
def test_one_rank_of_one_set_is_compared_with_nothing(rank):
    """Nor is a method that has no rank."""
    lines = [{"targets": "query", "rank": rank, "score": 60.0, "error": 1.0}]
    assert page.table6_claims(pd.DataFrame(lines)) == []


def test_the_papers_accuracies_have_a_section_for_each_data_set():
    wikisql, mnli = page.paper_sections(paper.lora.table6())
    assert wikisql.title == "The paper: GPT-3 175B, WikiSQL, accuracy in %"
    (table,) = mnli.blocks
    assert list(table) == ["targets", *[f"r = {r}" for r in (1, 2, 4, 8, 64)]]
    assert list(table.iloc[0]) == ["query", 90.7, 90.9, 91.1, 90.7, 90.7]
