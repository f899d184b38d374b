"""A run's row: its fields, its scores from logits, and what a language model wrote."""

import math

import numpy as np
import pytest

from lora_jax import methods, train
from lora_jax.experiment import NO_METHOD, check, presets, run, scoring
from lora_jax.experiment.run import Trained, score, train_run
from tests.experiment.toy import BASE

# A step and an evaluation an epoch. Greedy, since a beam takes longer to compile. Bytes
# are tokens: a source has about 50, with its target about 80.
WRITER = presets.NLG_SMOKE.changed(
    compute="float32",
    targets="query",
    rank=1,
    rows=8,
    batch=8,
    epochs=2,
    validation_rows=4,
    test_sources=7,
    max_length=128,
    new_tokens=2,
    beam=1,
)


def trained_run(config, benches, **options) -> Trained:
    (resolved,) = check.resolved([config], benches)
    return train_run(benches.bench(resolved), **options)


class Reports:
    """Keeps what a training reports."""

    def __init__(self):
        self.steps = []

    def __call__(self, progress):
        self.steps.append(progress.step)


@pytest.fixture(scope="module")
def reports() -> Reports:
    return Reports()


@pytest.fixture(scope="module")
def trained(benches, reports) -> Trained:
    """Two epochs of 64 sentences, 16 in a step."""
    config = BASE.changed(epochs=2, learning_rate=0.05)
    return trained_run(config, benches, report=reports)


@pytest.fixture(scope="module")
def untrained(benches) -> Trained:
    return trained_run(BASE.changed(method=NO_METHOD), benches)


@pytest.fixture(scope="module")
def writer(benches) -> Trained:
    return trained_run(WRITER, benches)


def accuracy(trained: Trained, split: str) -> float:
    """The share of right classes, one sentence after another."""
    bench = trained.bench
    logits = bench.predict(trained.model, split, compute="float32")
    labels = bench.task.splits[split].label
    right = 0
    for scores, label in zip(logits, labels, strict=True):
        right += int(scores.argmax()) == label
    return right / len(labels)


class TestRow:
    def test_its_fields(self, trained):
        assert set(trained.row) == {
            "config",
            "metrics",
            "examples",
            "parameters",
            "best_epoch",
            "validation",
            "loss",
            "steps",
            "tokens",
            "seconds",
            "seconds_evaluating",
            "tokens_per_second",
            "remat",
            "mesh",
            "peak_memory_mb",
        }
        assert trained.row["config"] == trained.bench.run.flat()

    def test_what_can_be_counted_by_hand(self, trained):
        row = trained.row
        assert row["examples"] == {"train": 64, "validation": 32, "test": 32}
        # 2 layers x r (16 + 16), and the head's 16 x 2 + 2.
        assert row["parameters"] == {"adapter": 64, "head": 34}
        assert row["steps"] == 2 * 64 / 16
        assert len(row["loss"]) == len(row["validation"]) == 2

    def test_tokens_are_those_of_the_texts_without_padding(self, trained):
        encoded = trained.bench.encoded["train"]
        assert trained.row["tokens"] == 2 * len(encoded.tokens)

    def test_the_loss_is_the_mean_over_an_epoch(self, trained):
        first, second = trained.row["loss"]
        # That of two classes begins at about log 2, and falls.
        assert first == pytest.approx(math.log(2), abs=0.1)
        assert second < first

    def test_times_are_parts_of_one_another(self, trained):
        row = trained.row
        assert 0 < row["seconds_evaluating"] < row["seconds"]
        training = row["seconds"] - row["seconds_evaluating"]
        speed = row["tokens"] / training
        assert row["tokens_per_second"] == pytest.approx(speed, rel=0.05)
        assert row["peak_memory_mb"] > 10

    def test_each_step_is_reported(self, trained, reports):
        assert reports.steps == list(range(1, trained.row["steps"] + 1))


class TestScores:
    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_they_are_the_accuracy_of_the_logits(self, trained, split):
        metrics = trained.row["metrics"]
        assert list(metrics) == [
            "validation/accuracy",
            "validation/majority",
            "test/accuracy",
            "test/majority",
        ]
        assert metrics[f"{split}/accuracy"] == accuracy(trained, split)

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_beside_them_is_the_share_of_the_largest_class(self, trained, split):
        labels = list(trained.bench.task.splits[split].label)
        share = max(labels.count(0), labels.count(1)) / len(labels)
        assert trained.row["metrics"][f"{split}/majority"] == share

    def test_an_epoch_says_how_many_classes_it_predicts(self, trained):
        bench = trained.bench
        logits = bench.predict(trained.model, "validation", compute="float32")
        best = trained.row["validation"][trained.row["best_epoch"] - 1]
        assert best["predicted_classes"] == len(set(logits.argmax(axis=1)))

    def test_the_best_epoch_is_the_one_that_is_kept(self, trained):
        row = trained.row
        scores = [epoch["accuracy"] for epoch in row["validation"]]
        # Of two alike the first.
        assert row["best_epoch"] == 1 + int(np.argmax(scores))
        assert row["metrics"]["validation/accuracy"] == max(scores)

    def test_the_rows_score_is_the_best_epochs_not_the_last(self, trained, monkeypatch):
        validation = [{"accuracy": 0.9}, {"accuracy": 0.1}]

        def fit(model, *_, **__):
            return train.Fit(model, 1, validation, np.ones(8, "f4"), 100)

        monkeypatch.setattr(train, "fit", fit)
        row = train_run(trained.bench).row
        assert row["metrics"]["validation/accuracy"] == 0.9
        assert row["validation"] == validation

    def test_a_model_is_scored_in_the_runs_dtype_unless_another_is_named(
        self, trained, monkeypatch
    ):
        dtypes = []

        def predict(self, model, split, *, compute):
            dtypes.append(compute)
            return np.eye(2)[self.encoded[split].label]

        monkeypatch.setattr(type(trained.bench), "predict", predict)
        scores = score(trained.bench, trained.model, "test")
        score(trained.bench, trained.model, "test", compute="bfloat16")
        assert dtypes == ["float32", "bfloat16"]
        # Logits that name each label.
        assert scores == {"accuracy": 1.0}

    def test_merging_changes_no_score(self, trained):
        merged = trained._replace(model=methods.merge(trained.model))
        assert accuracy(merged, "test") == accuracy(trained, "test")


class TestNothingTrained:
    def test_the_model_is_as_it_was_loaded(self, untrained):
        assert untrained.model is untrained.bench.model

    def test_its_row_has_no_steps(self, untrained):
        row = untrained.row
        assert row["steps"] == row["tokens"] == 0
        assert row["loss"] == []
        assert row["best_epoch"] == len(row["validation"]) == 1
        assert row["parameters"] == {"adapter": 0, "head": 0}
        assert row["tokens_per_second"] == 0

    def test_it_is_scored_as_others_are(self, untrained):
        for split in ("validation", "test"):
            score_of_row = untrained.row["metrics"][f"{split}/accuracy"]
            assert score_of_row == accuracy(untrained, split)


class TestWriter:
    def test_its_row_has_losses_and_scores_of_texts(self, writer):
        assert list(writer.row["metrics"]) == [
            "validation/loss",
            "validation/perplexity",
            "test/bleu",
        ]
        # A random model of 257 bytes.
        loss = writer.row["metrics"]["validation/loss"]
        assert loss == pytest.approx(math.log(257), rel=0.1)

    def test_a_text_is_written_for_each_source(self, writer):
        written = writer.row["written"]["test"]
        assert writer.row["examples"]["test"] == len(written["outputs"]) == 7
        assert written["steps"] <= 2
        # A row is read by people: six examples are enough.
        assert len(written["examples"]) == 6

    def test_examples_stand_beside_their_source_and_references(self, writer):
        task = writer.bench.task.splits["test"]
        first = writer.row["written"]["test"]["examples"][0]
        assert first["source"] == task.text[0]
        # Two targets for each source, one after the other.
        assert first["references"] == task.pair[:2]
        assert first["output"] == writer.row["written"]["test"]["outputs"][0]

    def test_a_short_training_has_a_point_of_the_curve_for_each_step(self, writer):
        first, second = writer.row["loss"]
        # Here an epoch is a step.
        assert writer.row["curve"] == [[1, round(first, 4)], [2, round(second, 4)]]

    def test_it_is_reported_how_many_there_are(self, writer):
        counts = []

        def written(done, total):
            counts.append((done, total))

        scoring.generate(writer.bench, writer.model, "test", written)
        # Before the batch, which compiles, and after it.
        assert counts == [(0, 7), (7, 7)]

    def test_texts_score_as_when_they_were_written(self, writer):
        scores = score(writer.bench, writer.model, "test")
        assert scores == {"bleu": writer.row["metrics"]["test/bleu"]}


def test_metrics_are_flat_in_rows():
    scores = {"validation": {"f1": 0.5}, "test": {"accuracy": 0.25, "f1": 1.0}}
    assert list(scoring.flat_metrics(scores).items()) == [
        ("validation/f1", 0.5),
        ("test/accuracy", 0.25),
        ("test/f1", 1.0),
    ]
    assert scoring.prefixed("test", {"f1": 1.0}) == {"test/f1": 1.0}
    assert scoring.flat_metrics({}) == {}


def test_a_diverged_run_has_its_metrics_without_values(untrained):
    row = run.diverged_row(untrained.bench)
    assert row["metrics"] == {"validation/accuracy": None, "test/accuracy": None}
    assert row["config"] == untrained.row["config"]
    assert row["examples"] == untrained.row["examples"]


def test_of_a_language_model_that_diverged_validation_has_the_losses(writer):
    names = list(run.diverged_row(writer.bench)["metrics"])
    assert names[:3] == ["validation/loss", "validation/perplexity", "test/bleu"]


def test_final_scores_are_not_those_of_validation():
    row = {"metrics": {"validation/accuracy": 0.9, "test/accuracy": 0.8}}
    assert scoring.final_scores(row) == {"test/accuracy": 0.8}


def test_the_largest_class_is_no_score():
    row = {"metrics": {"test/accuracy": 0.8, "test/majority": 0.5}}
    assert scoring.final_scores(row) == {"test/accuracy": 0.8}


def test_validation_is_the_final_score_of_data_without_a_test_split():
    row = {"metrics": {"validation/accuracy": 0.9}}
    assert scoring.final_scores(row) == {"validation/accuracy": 0.9}
