"""Runs of the rank sweep of a language model, and Table 18 beside its rows."""

import pytest
import rank_sweep_nlg

from lora_jax.experiment import fallback
from lora_jax.experiment.experiment import reference_folder
from lora_jax.experiment.identity import key

EXPERIMENT = rank_sweep_nlg.EXPERIMENT


@pytest.fixture(scope="module")
def rows():
    return EXPERIMENT.rows(reference_folder())


def runs(options, base):
    return [item.runs[0] for item in rank_sweep_nlg.measurements(options, base, None)]


def test_a_smoke_run_has_a_row_and_a_figure(tmp_path):
    words = ["--preset", "smoke", "--ranks", "1", "--new-tokens", "2", "--no-keep"]
    EXPERIMENT.main([*words, "--out", str(tmp_path)])
    (row,) = EXPERIMENT.rows(tmp_path)
    assert row["config"]["rank"] == 1
    page = (tmp_path / "rank_sweep_nlg" / "README.md").read_text()
    assert "A smoke run of a random model" in page
    assert "GPT-2 medium's" not in page.partition("## ")[2]


def test_table_18_stands_beside_the_same_ranks(rows):
    table = rank_sweep_nlg.show(rows).data
    assert table["rank"].tolist() == [1, 4, 16]
    assert table["paper test/bleu"].tolist() == [68.72, 70.38, 69.61]
    assert table["paper test/meteor"].tolist() == pytest.approx([45.65, 46.89, 46.29])
    (first,) = [row for row in rows if row["config"]["rank"] == 1]
    bleu = first["metrics"]["test/bleu"]
    assert table["test/bleu"].iloc[0] == pytest.approx(100 * bleu)


def test_other_data_has_nothing_of_the_paper_beside(rows):
    others = [{**row, "config": {**row["config"], "data": "mine"}} for row in rows]
    table = rank_sweep_nlg.show(others).data
    assert not [name for name in table if name.startswith("paper ")]


def test_the_figure_has_the_paper_beside_in_one_unit(rows):
    ours, published = rank_sweep_nlg.show(rows).figures[""].axes
    for ax in (ours, published):
        assert ax.get_ylabel().startswith("test BLEU, %\n(axis starts at ")
    # All of the paper's eleven ranks would overlap.
    assert published.get_xticks().tolist() == [1, 4, 16, 64, 256, 1024]


def test_one_row_alone_is_drawn(rows):
    assert len(rank_sweep_nlg.show(rows[:1]).data) == 1


def test_the_reference_rows_are_those_of_the_quick_preset(rows):
    """Somebody with the same data and dtype must not train them again."""
    options, base = rank_sweep_nlg.PRESETS["quick"]
    first = rows[0]["config"]
    base = base.changed(
        data_dir="e2e-dataset.zip",
        compute=first["compute"],
        model_source=first["model_source"],
        data_source=first["data_source"],
    )
    keys = {key(run.flat()) for run in runs(options, base)}
    assert {key(row["config"]) for row in rows} == keys


def test_the_paper_preset_takes_no_other_data(monkeypatch):
    def fail(run):
        pytest.fail("the paper preset asked for other data")

    monkeypatch.setattr(fallback, "available", fail)
    sweep = runs(*rank_sweep_nlg.PRESETS["paper"])
    assert {run.data.data for run in sweep} == {"e2e"}
    assert len(sweep) == 10


@pytest.mark.parametrize(
    ("method", "changes", "text"),
    [
        ("full", {}, "rank: full takes no rank: expected one value, got 1 2"),
        (
            "none",
            {"ranks": (1,), "targets": ("key", "value")},
            "targets: none takes no targets: .* got key value",
        ),
    ],
)
def test_options_that_the_method_does_not_take_are_refused(method, changes, text):
    _, base = rank_sweep_nlg.PRESETS["smoke"]
    options = rank_sweep_nlg.Options(**{"ranks": (1, 2), **changes})
    with pytest.raises(ValueError, match=text):
        runs(options, base.changed(method=method))
