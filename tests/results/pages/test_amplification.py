"""The paper's own table, and what is concluded from it and from made-up ones."""

import numpy as np
import pytest

from lora_jax.results import claims, groups
from lora_jax.results.pages import amplification as page


def row(rank, factors, matrix="query", rank_stabilized=False):
    """A row of one matrix, with a factor for each layer; all else is 1."""
    config = {"model": "small", "data": "films", "seed": 0, "alpha": 16.0}
    config |= {"matrix": f"blocks/attention/{matrix}", "rank": rank}
    config["rank_stabilized"] = rank_stabilized
    metrics = {}
    for layer, factor in enumerate(factors, start=1):
        for name in page.COLUMNS:
            metrics[f"layer{layer}/{name}"] = factor if name == "factor" else 1.0
    phi = np.full((len(factors), 2, 2), 0.1).tolist()
    return {
        "key": f"{matrix} {rank}",
        "config": config,
        "metrics": metrics,
        "dimension": 16,
        "phi": phi,
        "phi_random": phi,
    }


def table_of(rows):
    (group,) = groups(rows, axes=("rank", "matrix"))
    return page.table7(group)


def test_the_query_stands_first_and_ranks_are_in_order():
    rows = [row(8, [4.0], "key"), row(8, [2.0]), row(4, [3.0])]
    table = table_of(rows)
    assert list(table.matrix) == ["Wq", "Wq", "Wk"]
    assert list(table.r) == [4, 8, 8]
    # The factor times r / 16.
    assert list(table[page.BARE]) == [0.75, 1.0, 2.0]
    assert list(table.columns[-4:]) == ["model", "data", "seed", "settings"]


def test_rank_stabilized_alpha_is_over_the_root_of_r():
    table = table_of([row(4, [16.0, 8.0], rank_stabilized=True)])
    assert list(table[page.BARE]) == [2.0, 1.0]


def test_the_middle_layer_stands_above_the_papers():
    rows = [row(4, [1.0, 2.0, 3.0, 4.0])]
    (group,) = groups(rows, axes=("rank", "matrix"))
    _, text, _ = page.blocks(group, page.table7(group))
    lines = text.splitlines()
    assert "|     2 |" in lines[2]
    assert lines[3].startswith("| paper | Wq")
    assert "films" not in text


def test_the_figure_has_a_map_for_each_rank_and_a_random_one():
    rows = [row(8, [1.0, 2.0]), row(4, [1.0, 2.0]), row(4, [1.0, 2.0], "value")]
    titles = []
    for axes in page.figure8(rows).axes:
        if axes.images:
            titles.append(axes.get_title(loc="left").replace("\n", " "))
    assert titles == [
        "ours: Wq, r = 4, layer 1/2",
        "ours: Wq, r = 8, layer 1/2",
        "ours: Wq, random, layer 1/2",
        "ours: Wv, r = 4, layer 1/2",
        "ours: Wv, random, layer 1/2",
        "paper: Wq, r = 4, layer 48/96",
        "paper: Wq, r = 8, layer 48/96",
        "paper: Wq, r = 64, layer 48/96",
        "paper: Wq, random, layer 48/96",
    ]


def test_the_papers_table_is_as_printed():
    table = page.published()
    assert list(table.r) == [4, 64]
    assert table[page.BARE].isna().all()
    columns = list(page.COLUMNS.values())
    assert list(table.loc[0, columns]) == [0.32, 21.67, 0.02, 6.91, 61.95, 21.5]


def claims_of(table, highest):
    """The claims of the paper's own table, and of one map."""
    row = {"dimension": 16, "phi": [[[highest]]]}
    result = {}
    for claim in page.table7_claims(table, [row]):
        result[claim.statement] = (claim.evidence, claim.verdict)
    return result


@pytest.fixture
def published():
    table = page.published()
    return table.assign(layer=1)


def test_the_paper_passes_the_tests_it_is_put_to(published):
    held = claims_of(published, 0.2027)
    # The paper does not say what its alpha is.
    (bare,) = [text for text in held if text.endswith("without α/r too")]
    assert held.pop(bare) == ("0 of 1", claims.NOT_REPRODUCED)
    evidence = ["2 of 2"] * 2 + ["1 of 1"] * 4
    assert list(held.values()) == [(text, claims.REPRODUCED) for text in evidence]


def test_an_effect_that_is_not_there_is_not_reproduced(published):
    published["W in ΔW's"] = [0.03, 30.0]
    published["factor"] = [0.9, 0.5]
    published[page.BARE] = [5.0, 2.0]
    held = claims_of(published, 0.9)
    # The one that holds.
    (bare,) = [text for text in held if text.endswith("without α/r too")]
    assert held.pop(bare) == ("1 of 1", claims.REPRODUCED)
    evidence = ["1 of 2"] * 2 + ["0 of 1"] * 4
    assert list(held.values()) == [(text, claims.NOT_REPRODUCED) for text in evidence]


def test_a_claim_names_the_table_or_the_figure_that_it_is_of(published):
    row = {"dimension": 16, "phi": [[[0.2]]]}
    sources = {}
    for claim in page.table7_claims(published, [row]):
        sources.setdefault(claim.source, []).append(claim.statement)
    assert len(sources["LoRA Table 7"]) == 6
    (similarity,) = sources["LoRA Figure 8"]
    assert similarity.startswith("A's top 4 directions")


def test_one_rank_alone_says_nothing_about_ranks(published):
    statements = claims_of(published[:1], 0.2)
    assert statements["ΔW amplifies (factor > 1) at the lowest r"][0] == "1 of 1"
    assert not [text for text in statements if "more than twice as much as" in text]


def test_a_matrix_whose_other_rank_has_no_row_yet_is_not_compared():
    lowest = [row(4, [8.0, 1.0]), row(4, [8.0, 8.0], "value")]
    rows = [*lowest, row(8, [2.0, 2.0])]
    held = {}
    for claim in page.table7_claims(table_of(rows), rows):
        held[claim.statement] = claim.evidence
    compared = "the lowest r amplifies more than twice as much as the highest"
    assert held[compared] == "1 of 2"
    # No matrix has both ranks.
    rows = [lowest[0], row(8, [2.0, 2.0], "value")]
    statements = [claim.statement for claim in page.table7_claims(table_of(rows), rows)]
    assert compared not in statements
