"""Lines at their best learning rates, and the baselines, from made-up rows."""

import pytest

from lora_jax.results import sweeps
from lora_jax.results.rows import key

SEEDS = (0, 1)


def row(validation, test, *, targets="query", rate=1e-3, seed=0, **settings):
    """A row of made-up scores; a score of None is a run that diverged."""
    config = {
        "model": "minilm-l6",
        "data": "reviews",
        "method": "lora",
        "targets": targets,
        "rank": 1,
        "learning_rate": rate,
        "seed": seed,
        **settings,
    }
    return {
        "config": config,
        "key": key(config),
        "metrics": {"validation/accuracy": validation, "test/accuracy": test},
        "examples": {"validation": 50, "test": 100},
        "parameters": {"adapter": 8, "head": 2},
    }


def head(test, *, rate=1e-3):
    """A row of the head alone, which has no options of an adapter."""
    result = row(test, test, rate=rate)
    config = {**result["config"], "method": "head"}
    del config["targets"], config["rank"]
    result["metrics"]["test/majority"] = 0.54
    return {**result, "config": config, "key": key(config)}


def rates(*rows):
    """{targets: rate} of the lines at their best."""
    (best, *_) = sweeps.sweep_groups(rows)
    assert best.at_best_rates
    return dict(zip(best.table["targets"], best.table["learning_rate"], strict=True))


class TestBestRate:
    def test_it_is_that_of_validation_and_the_score_is_tests(self):
        rows = [row(0.6, 0.9, rate=1e-3), row(0.7, 0.8, rate=5e-3)]
        (best, *_) = sweeps.sweep_groups(rows)
        assert list(best.table["learning_rate"]) == [5e-3]
        assert list(best.table["score"]) == [80]
        assert "best learning_rate of 0.001, 0.005" in best.name

    def test_each_line_has_its_own(self):
        rows = []
        for targets, scores in {"query": (0.6, 0.7), "value": (0.8, 0.7)}.items():
            for rate, score in zip((1e-3, 5e-3), scores, strict=True):
                rows.append(row(score, score, targets=targets, rate=rate))
        assert rates(*rows) == {"query": 5e-3, "value": 1e-3}

    def test_it_is_the_mean_over_seeds(self):
        rows = []
        for seed, scores in zip(SEEDS, ((0.9, 0.7), (0.4, 0.7)), strict=True):
            for rate, score in zip((1e-3, 5e-3), scores, strict=True):
                rows.append(row(score, score, rate=rate, seed=seed))
        assert rates(*rows) == {"query": 5e-3}

    def test_one_that_diverged_is_not_chosen(self):
        rows = [
            row(0.9, 0.9, rate=5e-3, seed=0),
            row(None, None, rate=5e-3, seed=1),
            row(0.5, 0.5, rate=1e-3, seed=0),
            row(0.5, 0.5, rate=1e-3, seed=1),
        ]
        assert rates(*rows) == {"query": 1e-3}

    def test_of_equal_ones_it_is_the_lower(self):
        rows = [row(0.5, 0.5, rate=rate) for rate in (5e-3, 5e-4)]
        assert rates(*rows) == {"query": 5e-4}

    def test_a_lower_loss_is_better(self):
        rows = [row(0, 0.5, rate=1e-3), row(0, 0.5, rate=5e-3)]
        for item, loss in zip(rows, (1.5, 1.7), strict=True):
            item["metrics"] = {"validation/loss": loss, "test/bleu": 50.0}
        assert rates(*rows) == {"query": 1e-3}

    def test_where_all_diverged_the_line_is_there_without_a_score(self):
        rows = [row(None, None, rate=rate) for rate in (1e-3, 5e-3)]
        (best, *_) = sweeps.sweep_groups(rows)
        assert best.table["score"].isna().all()

    def test_a_line_of_one_rate_stands_among_those_that_share_it_alone(self):
        rows = [row(0.6, 0.6), row(0.7, 0.7, rate=5e-3), row(0.8, 0.8, targets="value")]
        assert set(rates(*rows)) == {"query"}
        shared = sweeps.sweep_groups(rows)[1]
        assert set(shared.table["targets"]) == {"query", "value"}


class TestGroups:
    def test_each_shared_rate_is_named_whatever_others_there_are(self):
        alone = sweeps.sweep_groups([row(0.6, 0.6)])
        several = sweeps.sweep_groups([row(0.6, 0.6), row(0.7, 0.7, rate=5e-3)])
        names = [group.table["settings"].iloc[0] for group in several]
        assert names == [
            "best learning_rate of 0.001, 0.005",
            "learning_rate 0.001",
            "learning_rate 0.005",
        ]
        assert alone[0].table["settings"].iloc[0] == names[1]

    def test_settings_that_differ_are_apart(self):
        rows = [
            row(0.6, 0.6, quantize="nf4"),
            row(0.7, 0.7, rate=5e-3, quantize="none"),
        ]
        groups = sweeps.sweep_groups(rows)
        assert [group.at_best_rates for group in groups] == [False, False]

    def test_the_order_of_rows_changes_nothing(self):
        rows = [row(0.6, 0.6), row(0.7, 0.7, rate=5e-3), head(0.5)]
        first = sweeps.sweep_groups(rows)
        second = sweeps.sweep_groups(rows[::-1])
        assert [group.notes for group in first] == [group.notes for group in second]
        for one, other in zip(first, second, strict=True):
            assert one.table.equals(other.table)


class TestNotes:
    def test_one_rate_is_warned_of_once_with_what_was_measured(self):
        first, second = sweeps.sweep_groups(
            [row(0.6, 0.6), row(0.6, 0.6, targets="key"), row(0.7, 0.7, batch=1)]
        )
        (note,) = first.notes
        assert "the lines compare rates as much as matrices" in note
        assert "75.0 (r = 1) and 76.2 (r = 64) at 5e-3" in note
        assert second.notes == []

    def test_a_random_models_numbers_need_no_warning(self):
        assert sweeps.sweep_groups([row(0.6, 0.6, model="tiny")])[0].notes == []

    def test_where_rates_were_chosen_it_says_by_which_score(self):
        (best, *others) = sweeps.sweep_groups([row(0.6, 0.6), row(0.7, 0.7, rate=5e-3)])
        (note,) = best.notes
        assert "the learning rate with the best validation/accuracy" in note
        assert "so too high" not in note
        assert [group.notes for group in others] == [[], []]

    def test_without_a_test_split_it_says_that_the_choice_favors_all_lines(self):
        rows = [row(0.6, 0.6), row(0.7, 0.7, rate=5e-3)]
        for item in rows:
            del item["metrics"]["test/accuracy"]
        (note,) = sweeps.sweep_groups(rows)[0].notes
        assert "that favors all lines alike" in note

    def test_the_head_alone_and_the_largest_class_are_baselines(self):
        rows = [
            row(0.6, 0.6),
            row(0.7, 0.7, rate=5e-3),
            head(0.55),
            head(0.6, rate=5e-3),
        ]
        best, low, high = sweeps.sweep_groups(rows)
        text = (
            "Baselines: the head alone, without an adapter, {} (learning rate {}); "
            "the largest class throughout 54.0."
        )
        assert best.notes[-1] == text.format("60.0 ± 4.9", "0.005")
        assert low.notes[-1] == text.format("55.0 ± 5.0", "0.001")
        assert high.notes[-1] == text.format("60.0 ± 4.9", "0.005")

    def test_a_head_of_other_settings_is_none(self):
        other = head(0.55)
        other["config"]["data"] = "news"
        (group,) = sweeps.sweep_groups([row(0.6, 0.6), other])
        assert group.heads == []

    def test_the_head_by_itself_is_what_there_is_to_show(self):
        (group,) = sweeps.sweep_groups([head(0.55)])
        (line,) = group.table.to_dict("records")
        assert line["score"] == pytest.approx(55)
        # It adapts no matrices.
        assert line["targets"] == "head"


class TestCollapse:
    """Trainings that predict one class throughout are named on the page."""

    def notes(self, *rows):
        (group, *_) = sweeps.sweep_groups(rows)
        return " ".join(group.notes)

    def collapsed(self, item):
        epochs = [{"accuracy": 0.5, "predicted_classes": 1}]
        return {**item, "best_epoch": 1, "validation": epochs}

    def test_lines_and_the_head_are_named_with_their_rates(self):
        text = self.notes(
            self.collapsed(row(0.5, 0.5)),
            row(0.8, 0.8, targets="value"),
            self.collapsed(head(0.5, rate=1e-3)),
        )
        assert text.endswith(
            "**Predicts one class throughout**, as if nothing was learned: query at "
            "r = 1 (learning rate 0.001); head (learning rate 0.001)."
        )

    def test_a_method_without_a_rank_has_a_name(self):
        item = self.collapsed(row(0.5, 0.5))
        for name, text in (("rank", "query (learning"), ("targets", "lora (learning")):
            del item["config"][name]
            assert text in self.notes(item)

    def test_nothing_is_said_where_none_is(self):
        assert "one class" not in self.notes(row(0.5, 0.5))
