"""The methods' runs, Table 11's values, what the paper has, and a smoke run."""

import inspect

import nlg
import pytest

from lora_jax import paper
from lora_jax.experiment import fallback, presets
from lora_jax.experiment.experiment import reference_folder
from lora_jax.experiment.grid import RATES
from lora_jax.experiment.identity import key

EXPERIMENT = nlg.EXPERIMENT


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A smoke run of one method."""
    folder = tmp_path_factory.mktemp("nlg")
    words = ["--preset", "smoke", "--methods", "lora", "--new-tokens", "2"]
    EXPERIMENT.main([*words, "--out", str(folder)])
    return folder


def runs(options, base):
    return [item.runs[0] for item in nlg.measurements(options, base, None)]


def test_a_smoke_run_has_a_row_with_texts_and_a_page(out):
    (row,) = EXPERIMENT.rows(out)
    assert len(row["written"]["test"]["outputs"]) == 4
    page = (out / "nlg" / "README.md").read_text()
    assert "A smoke run of a random model" in page
    assert "| LoRA " in page


def test_drawn_again_the_page_has_the_same_bytes(out):
    paths = EXPERIMENT.draw(out)
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in EXPERIMENT.draw(out)] == before


def test_each_method_has_its_rate_and_full_fine_tuning_has_arrays():
    options = nlg.Options(methods=("none", "lora", "full", "prefix"), seeds=(0, 1))
    none, lora, full, prefix, *_ = runs(options, presets.NLG_SMOKE)
    assert none.seed == 0
    assert [run.quantize for run in (lora, full, prefix)] == ["none", "float", "none"]
    rates = [run.train.learning_rate / 2e-3 for run in (lora, full, prefix)]
    assert rates == pytest.approx([1, 0.05, 2.5])


@pytest.mark.parametrize("script", ["nlg", "gpt3_tables"])
def test_help_says_the_rates(script):
    source = inspect.getsource(__import__(script))
    text = " ".join(source.split())
    for method, rate in RATES.items():
        name = "full fine-tuning takes" if method == "full" else method
        suffix = " of it" if method == "full" else ""
        assert rate == 1 or f"{name} {rate:g}{suffix}" in text


@pytest.mark.parametrize("task", ["e2e", "webnlg", "dart"])
def test_the_paper_preset_has_the_values_of_table_11(task):
    options, base = nlg.PRESETS["paper"]
    run = runs(options, base.changed(data=task))[-1]
    published = paper.lora.table11(task)
    del published["warmup_steps"]  # our flag is a share of all steps
    settings = run.flat()
    assert run.method == "lora"
    assert {name: settings[name] for name in published} == published


def test_the_paper_has_one_learning_rate_for_all_methods():
    options, base = nlg.PRESETS["paper"]
    rates = {run.train.learning_rate for run in runs(options, base)}
    assert rates == {2e-4}


def test_the_paper_preset_takes_no_other_data(monkeypatch):
    def fail(run):
        pytest.fail("the paper preset asked for other data")

    monkeypatch.setattr(fallback, "available", fail)
    options, base = nlg.PRESETS["paper"]
    assert {run.data.data for run in runs(options, base)} == {"e2e"}


def test_table_11_says_nothing_of_other_data():
    assert nlg.table11_changes("samsum") == {}


def test_published_tables():
    heading, table = nlg.published("e2e")
    assert heading == "The paper's Table 3:"
    assert len(table) == 12
    assert table["BLEU"].iloc[0] == 68.2
    assert "BLEU unseen" in nlg.published("webnlg")[1]
    assert "TER" in nlg.published("dart")[1]
    assert nlg.published("mine") == []


def test_a_claim_on_e2e_is_made_of_no_other_data():
    rows = EXPERIMENT.rows(reference_folder())
    assert {claim.source for claim in nlg.show(rows).claims} == {"LoRA Table 3"}
    others = []
    for row in rows:
        others.append({**row, "config": {**row["config"], "data": "dart"}})
    assert list(nlg.show(others).claims) == []


def test_data_with_labels_is_refused_before_anything_is_loaded(tmp_path):
    message = "--data: sst2 has labels; --data sst2-text has them as words"
    with pytest.raises(ValueError, match=message):
        EXPERIMENT.main(["--preset", "smoke", "--data", "sst2", "--out", str(tmp_path)])


def test_a_method_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"method: expected one of lora, .*got lroa"):
        EXPERIMENT.main(["--methods", "none", "lroa"])


def test_the_methods_are_said_once(capsys):
    with pytest.raises(SystemExit):
        EXPERIMENT.main(["--preset", "smoke", "--method", "full"])
    assert "--methods" in capsys.readouterr().err


def test_the_reference_rows_are_those_of_the_quick_preset():
    """Somebody with the same data and dtype must not train them again."""
    rows = EXPERIMENT.rows(reference_folder())
    first = rows[0]["config"]
    base = nlg.PRESETS["quick"][1].changed(
        data_dir="e2e-dataset.zip",
        compute=first["compute"],
        model_source=first["model_source"],
        data_source=first["data_source"],
    )
    options = nlg.Options(methods=nlg.ALL_METHODS)
    keys = {key(run.flat()) for run in runs(options, base)}
    assert {key(row["config"]) for row in rows} == keys
