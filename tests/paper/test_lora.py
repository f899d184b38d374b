"""LoRA's tables in our words: known values under our names, and shapes of the maps."""

import math

import numpy as np
import pandas as pd
import pytest

from lora_jax import paper


def by(table: pd.DataFrame, *names: str) -> dict:
    """The values by some columns."""
    return table.set_index(list(names)).value.to_dict()


def test_glue_by_the_names_of_our_tasks():
    roberta = paper.lora.table2().query("model == 'RoBERTa-base' and method == 'LoRA'")
    value = by(roberta, "dataset")
    assert set(value) == {*paper.lora.GLUE, "average"}
    assert value["cola"] == 63.4
    assert value["average"] == 87.2


def test_methods_have_one_spelling():
    tables = [paper.lora.table2(), paper.lora.table3(), paper.lora.table13()]
    methods = {name for table in tables for name in table.method}
    assert not methods & paper.lora.METHODS.keys()
    assert {"Fine-Tune", "PrefixLayer", "AdapterH", "AdapterP"} <= methods


def test_table_4_has_a_column_a_score():
    table = paper.lora.table4().set_index(["method", "trainable_params"])
    assert table.loc[("LoRA", "4.7M"), "WikiSQL"] == 73.4
    assert table.loc[("Fine-Tune", "175,255.8M"), "SAMSum-RL"] == 44.5
    columns = [name for names in paper.lora.TABLE4_COLUMNS.values() for name in names]
    assert sorted(columns) == sorted(table)


def test_table_5_and_6_by_our_targets():
    value = by(paper.lora.table6(), "dataset", "targets", "rank")
    assert value["WikiSQL", "query,value", 4] == 73.7
    assert value["MultiNLI", "query", 8] == 90.7
    budget = paper.lora.table5().query("dataset == 'WikiSQL'").set_index("targets")
    assert list(budget["rank"]) == [8, 8, 8, 8, 4, 4, 2]
    assert budget.loc["query,key,value,output", "value"] == 73.7


def test_published_values_stand_beside_ours():
    targets = ["query", "query,value", "head"]
    ours = pd.DataFrame({"targets": targets, "rank": [8, 4, 1], "score": [1, 2, 3]})
    joined = paper.lora.beside(ours, paper.lora.table6(), on=["targets", "rank"])
    assert list(joined.score) == [1, 2, 3]
    assert list(joined["paper WikiSQL"][:2]) == [70.4, 73.7]
    assert list(joined["paper MultiNLI std"][:2]) == [0.1, 0.1]
    assert math.isnan(joined["paper WikiSQL"][2])


def test_table_7_has_a_line_a_rank():
    low, high = paper.lora.table7().to_dict("records")
    assert (low["rank"], low["layer"], low["matrix"]) == (4, 48, "query")
    assert (low["factor"], low["of_delta"], low["of_w"]) == (21.5, 0.32, 21.67)
    assert (high["rank"], high["factor"], high["delta"]) == (64, 1.88, 3.57)
    assert low["w"] == high["w"] == 61.95


def test_table_9_epochs():
    assert paper.lora.table9_epochs("cola") == 80
    with pytest.raises(
        ValueError, match=r"Table 9's, which has mnli, .* but not 'e2e'"
    ):
        paper.lora.table9_epochs("e2e")


def test_table_11_by_our_flags():
    e2e = paper.lora.table11("e2e")
    assert (e2e["rank"], e2e["alpha"], e2e["beam"]) == (4, 32, 10)
    assert (e2e["length_penalty"], e2e["weight_decay"]) == (0.9, 0.01)
    dart = paper.lora.table11("dart")
    assert (dart["dropout"], dart["label_smoothing"]) == (0, 0)
    with pytest.raises(ValueError, match="Table 11, e2e, webnlg, dart, got 'samsum'"):
        paper.lora.table11("samsum")


def test_scores_of_generated_text():
    webnlg = paper.lora.scores_by_metric(paper.lora.TEXT_TABLES["webnlg"]())
    line = webnlg.query("model == 'GPT-2 M' and method == 'LoRA'").iloc[0]
    assert line["BLEU all"] == 55.3
    e2e = paper.lora.scores_by_metric(paper.lora.TEXT_TABLES["e2e"]())
    assert list(e2e) == [
        "model",
        "method",
        "trainable_params",
        "BLEU",
        "NIST",
        "MET",
        "ROUGE-L",
        "CIDEr",
    ]


def test_table_18_in_our_units():
    table = paper.lora.table18().set_index("rank")
    assert set(table.targets) == {"query,value"}
    assert table.loc[1, "test/bleu"] == 68.72
    assert table.loc[1, "test/meteor"] == pytest.approx(45.65)
    assert table.loc[1, "test/cider"] == 2.4329
    assert table.loc[4, "validation/loss"] == 1.18


def test_maps_of_the_subspaces():
    ranks = paper.lora.figure3_and_6()
    assert {name: sorted(layers) for name, layers in ranks.items()} == {
        "ΔWq": [1, 32, 48, 64, 96],
        "ΔWv": [1, 32, 48, 64, 96],
    }
    assert ranks["ΔWq"][48].shape == (8, 64)
    assert ranks["ΔWq"][48][0, 0] == pytest.approx(0.404, abs=0.001)
    assert np.isnan(ranks["ΔWq"][48][1, 0])
    seeds = paper.lora.figure4_and_7()
    assert sorted(seeds) == ["random", "ΔWq", "ΔWv"]
    assert seeds["random"][48].shape == (64, 64)


def test_maps_of_the_weights():
    maps = paper.lora.figure8()
    assert list(maps) == ["r = 4", "r = 8", "r = 64", "random"]
    assert maps["r = 64"].shape == (828, 4)
    assert maps["r = 4"][0, 0] == 0.0902


def test_figure_5_has_no_slow_down_without_an_adapter():
    figure = paper.lora.figure5()
    assert (figure.query("r == 0").slowdown_percent == 0).all()


@pytest.mark.parametrize(
    ("width", "lines"), [(12288, (400, 1273)), (384, (12, 40)), (16, (1, 2))]
)
def test_the_range_of_figure_8_grows_with_the_model(width, lines):
    assert paper.lora.figure8_range(width) == lines
