"""What is wrong with runs is an error before the first one starts."""

from dataclasses import dataclass

import pytest

from lora_jax import models
from lora_jax.experiment import NO_METHOD, check
from lora_jax.nn import precision
from tests.experiment.toy import BASE


def message_of(*runs) -> str:
    with pytest.raises(ValueError) as error:
        check.check_settings(runs)
    return str(error.value)


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("rows", -1, "0 or more (0 is all)"),
            ("validation_rows", -1, "0 or more (0 is all)"),
            ("test_sources", -1, "0 or more (0 is all)"),
            ("max_length", -1, "0 or more (0 is all)"),
            ("seed", -1, "0 or more"),
        ],
    )
    def test_the_lowest_values(self, name, value, expected):
        message = message_of(BASE.changed(**{name: value}))
        assert message == f"{name}: expected {expected}, got {value}"
        # One more is right.
        check.check_settings([BASE.changed(**{name: value + 1})])

    def test_all_problems_are_in_one_message(self):
        run = BASE.changed(rows=-1, seed=-2, batch=0, beam=0, rank=0)
        parts = message_of(run).split("; ")
        names = [part.partition(":")[0] for part in parts]
        # The method's problem is the last, training and decoding have theirs before.
        assert names[:3] == ["rows", "seed", "batch"]
        assert "beam" in names
        assert "rank: expected" in parts[-1]

    def test_a_problem_of_several_runs_is_named_once(self):
        one = BASE.changed(rows=-1)
        other = BASE.changed(rows=-1, seed=-3)
        assert message_of(one, other) == (
            "rows: expected 0 or more (0 is all), got -1; "
            "seed: expected 0 or more, got -3"
        )

    def test_a_wrong_method_is_named_with_the_others(self):
        text = message_of(BASE.changed(method="lroa"))
        assert text.startswith("method: expected one of lora, ")
        assert text.endswith("got 'lroa'")

    def test_adapters_have_one_of_two_dtypes(self):
        text = message_of(BASE.changed(adapter_dtype="int8"))
        assert text == "adapter_dtype: expected one of float32, bfloat16, got 'int8'"

    def test_where_nothing_is_trained_options_do_not_matter(self):
        check.check_settings([BASE.changed(method=NO_METHOD, rank=0)])

    def test_auto_is_a_dtype_of_training(self):
        check.check_settings([BASE.changed(compute="auto")])
        assert "compute_dtype: expected" in message_of(BASE.changed(compute="int8"))


class TestOptions:
    """What an experiment's own options give a run's settings."""

    @dataclass(frozen=True)
    class Options:
        ranks: tuple[int, ...] = (1,)
        seeds: tuple[int, ...] = (0,)
        tasks: tuple[str, ...] = ()
        targets: tuple[str, ...] = ("query",)
        widths: tuple[int, ...] = (-1,)  # no setting of a run
        rows: int = -1  # the run's own flag is gone then: the experiment checks it

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"ranks": (1, 0)}, "rank: expected an integer >= 1, got 0"),
            ({"seeds": (0, -1)}, "seed: expected 0 or more, got -1"),
            ({"tasks": ("mnli", "samsun")}, "is samsum meant?"),
            ({"tasks": ("no/such.csv",)}, "data: the data file 'no/such.csv' does not"),
        ],
    )
    def test_a_wrong_value_is_known_before_anything_is_loaded(self, options, text):
        with pytest.raises(ValueError) as error:
            check.check_options(BASE, self.Options(**options))
        assert text in str(error.value)

    def test_values_that_can_be(self):
        check.check_options(BASE, self.Options(ranks=(1, 8), tasks=("mnli-text",)))

    def test_folders_go_with_the_tasks(self):
        # Whatever data the preset has.
        run = BASE.changed(data_dir="here")
        check.check_options(run, self.Options(tasks=("sst2", "rte")))
        with pytest.raises(
            ValueError, match=r"data_dir: goes with .*, but data is 'tiny'"
        ):
            check.check_options(run, self.Options(tasks=("sst2", "tiny")))


class TestFolders:
    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            (
                {"data_dir": "here"},
                "data_dir: goes with cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, "
                "wnli, e2e, webnlg, dart, wikisql, samsum, but data is 'tiny'",
            ),
            (
                {"glue_dir": "here", "data": "e2e"},
                "glue_dir: goes with cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, "
                "wnli, but data is 'e2e'",
            ),
            (
                {"data": "rte", "glue_dir": "here", "data_dir": "there"},
                "data_dir and glue_dir mean the same: expected one of them, got "
                "there and here",
            ),
        ],
    )
    def test_a_folder_goes_with_a_task_that_has_files(self, changes, text):
        assert message_of(BASE.changed(**changes)) == text

    def test_names_of_columns_go_with_a_file_of_somebodys_own(self, tmp_path):
        run = BASE.changed(text_column="review", label_kind="scores")
        assert message_of(run) == (
            "text_column, label_kind: for a file of your own, but data is 'tiny'"
        )
        check.check_settings([run.changed(data=str(tmp_path))])

    @pytest.mark.parametrize(
        "changes",
        [
            {"data": "rte", "glue_dir": "here"},
            {"data": "rte", "data_dir": "here"},
            # The same files, as text to be written.
            {"data": "rte-text", "data_dir": "here"},
            {"data": "e2e", "data_dir": "here"},
        ],
    )
    def test_those_that_have(self, changes):
        check.check_settings([BASE.changed(**changes)])


class TestResolved:
    def test_sources_and_the_dtype_are_filled_in(self, benches, monkeypatch):
        monkeypatch.setattr(precision, "fast_dtype", lambda: "bfloat16")
        automatic = BASE.changed(compute="auto", rank=2)
        first, second = check.resolved([automatic, BASE], benches)
        assert first.flat()["compute"] == "bfloat16"
        assert second.flat()["compute"] == "float32"
        for run in (first, second):
            assert run.model_source == "random weights"
            assert run.data_source == "made up, seed 0"
        # All else is as it was.
        filled = {"model_source": "random weights", "data_source": "made up, seed 0"}
        assert second == BASE.changed(**filled)

    @pytest.mark.parametrize(
        "idle",
        [
            {"beam": 4},
            {"temperature": 0.5},
            {"loss_on": "all"},
            {"test_sources": 3},
            {"no_repeat_within": "text"},
        ],
    )
    def test_what_does_nothing_for_a_classifier_is_as_by_default(self, idle, benches):
        plain, changed = check.resolved([BASE, BASE.changed(**idle)], benches)
        assert plain == changed

    def test_what_adds_nothing_has_no_adapters_in_another_dtype(self, benches):
        narrow = {"adapter_dtype": "bfloat16"}
        runs = [BASE.changed(method=name, **narrow) for name in ("bitfit", "lora")]
        bitfit, lora = check.resolved(runs, benches)
        assert bitfit.flat()["adapter_dtype"] == "float32"
        assert lora.flat()["adapter_dtype"] == "bfloat16"
        adapted, _ = benches.bench(lora).adapted()
        assert adapted.blocks.attention.query.lora_a.dtype == "bfloat16"

    def test_a_regressions_loss_has_no_label_smoothing(self, benches, monkeypatch):
        task = benches.task(BASE)
        smoothed = BASE.changed(label_smoothing=0.1)
        (classifier,) = check.resolved([smoothed], benches)
        assert classifier.train.label_smoothing == 0.1
        monkeypatch.setattr(benches, "task", lambda run: task._replace(labels=()))
        (regressor,) = check.resolved([smoothed], benches)
        assert regressor.train.label_smoothing == 0

    def test_a_model_is_looked_up_once(self, benches, monkeypatch):
        names = []

        def source(name):
            names.append(name)
            return "somewhere"

        monkeypatch.setattr(models, "source", source)
        check.resolved([BASE, BASE.changed(rank=2)], benches)
        assert names == ["tiny"]

    def test_a_wrong_setting_comes_before_any_lookup(self, benches, monkeypatch):
        monkeypatch.setattr(models, "source", pytest.fail)
        with pytest.raises(ValueError, match="rows: expected 0 or more"):
            check.resolved([BASE.changed(rows=-1)], benches)


class TestFolder:
    def test_it_is_made_with_those_above_it(self, tmp_path):
        folder = tmp_path / "a" / "b"
        check.writable_folder(folder)
        check.writable_folder(folder)
        assert folder.is_dir()

    def test_a_file_is_no_folder(self, tmp_path):
        path = tmp_path / "out"
        path.write_text("")
        with pytest.raises(OSError) as error:
            check.writable_folder(path)
        assert str(error.value) == (
            f"--out: expected a folder that can be written, got {path} (File exists)"
        )

    def test_a_folder_of_somebody_else(self, tmp_path, monkeypatch):
        # The tests may run as root, who can write everywhere.
        monkeypatch.setattr(check.os, "access", lambda *_: False)
        with pytest.raises(PermissionError) as error:
            check.writable_folder(tmp_path)
        assert str(error.value) == (
            f"--out: expected a folder that can be written, got {tmp_path}"
        )


class TestFormats:
    def test_those_that_there_are(self):
        check.formats(["nf4", "int8"])

    @pytest.mark.parametrize(
        ("names", "text"),
        [(["nf4", "nf5", "x"], "got nf5, x"), ([], "got none")],
    )
    def test_others_are_an_error_with_all_there_are(self, names, text):
        with pytest.raises(ValueError) as error:
            check.formats(names)
        assert str(error.value).startswith("formats: expected some of nf4, ")
        assert str(error.value).endswith(text)


@dataclass(frozen=True)
class Options:
    batch: int = 0
    length: int = 1
    steps: int = -2


def test_names_must_be_candidates():
    assert check.name_problems("formats", ["a"], ["a", "b"]) == []
    problems = check.name_problems("formats", ["c", "a", "d"], ["a", "b"])
    assert problems == ["formats: expected some of a, b, got c, d"]


def test_no_name_is_a_problem():
    problems = check.name_problems("models", [], ["a", "b"])
    assert problems == ["models: expected some of a, b, got none"]


def test_formats_are_those_of_the_library_unless_others_are_passed():
    check.formats(["nf4"])
    check.formats(["fp32"], ["fp32", "nf4"])
    with pytest.raises(ValueError, match=r"formats: expected some of nf4, .*got fp32"):
        check.formats(["fp32"])


def test_counts_below_one_are_problems():
    problems = check.count_problems(Options(), ["batch", "length", "steps"])
    assert problems == [
        "batch: expected 1 or more, got 0",
        "steps: expected 1 or more, got -2",
    ]


def test_block_sizes_are_powers_of_two():
    assert check.block_problems([32, 64, 4096]) == []
    assert check.block_problems([64, 48, 8192]) == [
        "blocks: expected powers of two from 32 to 4096, got 48",
        "blocks: expected powers of two from 32 to 4096, got 8192",
    ]


def test_all_problems_are_one_error():
    check.raise_all()
    with pytest.raises(ValueError, match=r"^one; two$"):
        check.raise_all("one", "two")
