"""The budget's ranks by hand, and the page of made-up scores."""

import pytest
import weight_selection

from lora_jax.experiment import presets
from lora_jax.experiment.identity import key
from lora_jax.experiment.workbench import Workbenches

BASE = presets.SMOKE
BENCHES = Workbenches()
SCORES = {
    "query,value": (0.8, 0.82),
    "query": (0.7, 0.7),
    "key": (0.6, 0.62),
    "value": (0.79, 0.81),
}


def ranks(base=BASE, **options):
    """{targets: rank} of the smoke preset with other options."""
    plain = {"seeds": (0,), "baseline": False}
    options = weight_selection.Options(**{**plain, **options})
    result = {}
    for item in weight_selection.measurements(options, base, BENCHES):
        settings = item.config()
        result[settings["targets"]] = settings["rank"]
    return result


def rows(scores, budget=512):
    """Rows of made-up scores {targets: score of each seed}."""
    result = []
    for targets, values in scores.items():
        for seed, value in enumerate(values):
            run = BASE.changed(targets=targets, rank=4, seed=seed)
            config = {**run.flat(), "budget": budget}
            row = {"config": config, "key": key(config)}
            row["metrics"] = {"validation/accuracy": 0.0, "test/accuracy": value}
            row["examples"] = {"test": 100, "validation": 9}
            row["parameters"] = {"adapter": 504, "head": 34}
            result.append(row)
    return result


@pytest.fixture(scope="module")
def report():
    return weight_selection.show(rows(SCORES))


class TestBudget:
    def test_the_default_gives_the_ranks_of_table_5(self):
        items = weight_selection.measurements(
            *weight_selection.PRESETS["smoke"], BENCHES
        )
        # The head alone stands beside the seven sets.
        assert len(items) == 8 * 2
        # r (i + o) L
        assert {item.settings["budget"] for item in items} == {8 * (16 + 16) * 2}
        assert list(ranks().values()) == [8, 8, 8, 8, 4, 4, 2]

    def test_auto_trains_each_set_at_three_rates(self):
        options = weight_selection.Options(
            targets=("query",), seeds=(0,), learning_rate="auto"
        )
        items = weight_selection.measurements(options, BASE, BENCHES)
        rates = {"lora": [], "head": []}
        for item in items:
            (run,) = item.runs
            rates[run.method].append(run.train.learning_rate)
        assert rates == {"lora": [5e-4, 1e-3, 5e-3], "head": [5e-4, 1e-3, 5e-3]}

    def test_no_targets_are_refused(self, tmp_path):
        words = ["--preset", "smoke", "--targets", "--out", str(tmp_path)]
        with pytest.raises(ValueError, match="expected at least one value"):
            weight_selection.EXPERIMENT.main(words)


class TestPage:
    def test_the_table_has_ours_and_the_papers_in_the_papers_order(self, report):
        text = report.sections[0].blocks[2]
        assert list(text.targets) == ["query", "key", "value", "query,value"]
        both = text.iloc[3]
        # Standard error of 80 and 82: std sqrt(2), over sqrt(2) seeds, 1.
        assert list(both)[1:] == [4, 504, "81.0 ± 1.0", "73.7 ± 0.5", "91.3 ± 0.1"]

    def test_one_seed_and_sets_that_the_paper_does_not_have(self):
        made_up = rows({"query": (0.7,), "blocks/mlp/.*": (0.75,)})
        report = weight_selection.show(made_up)
        assert "binomial standard error of one seed" in report.sections[0].blocks[1]
        assert "75.0 ± 4.3" in list(report.sections[0].blocks[2].ours)
        assert report.claims == []

    def test_two_budgets_are_two_tables(self):
        made_up = rows(SCORES) + rows({"query": (0.1,)}, budget=64)
        titles = [section.title for section in weight_selection.show(made_up).sections]
        assert "512 parameters" in titles[0]
        assert "64 parameters" in titles[1]

    def test_the_order_of_rows_changes_nothing(self, report):
        again = weight_selection.show(rows(SCORES)[::-1])
        assert again.data.equals(report.data)
