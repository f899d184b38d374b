"""An experiment as a whole: what it prints, refuses, makes, continues and draws."""

import contextlib
import errno
import io
import shutil
from pathlib import Path

import pytest

from lora_jax import results
from lora_jax.experiment import (
    Measurement,
    RunConfig,
    experiment,
    process,
    provenance,
    schedule,
)
from lora_jax.experiment.config import DEFAULT
from lora_jax.experiment.identity import key
from lora_jax.results import files, report
from tests.experiment.toy import BASE, FACTORS, RANKS, RankOptions

AGREEMENT = "## Yours and the reference"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A folder with the rows and the page of two ranks, and what was printed."""
    out = tmp_path_factory.mktemp("finished")
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        RANKS.main(["--out", str(out)])
    return out, screen.getvalue()


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A copy of those rows, without the page."""
    folder, _ = finished
    shutil.copy(folder / "ranks.jsonl", tmp_path)
    return tmp_path


@pytest.fixture
def reference(finished, monkeypatch) -> Path:
    """Those rows as the committed ones."""
    folder, _ = finished
    monkeypatch.setattr(experiment, "reference_folder", lambda: folder)
    return folder


def fail(*_, **__):
    pytest.fail("a run was trained")


def page_of(out: Path) -> str:
    return (out / "ranks" / "README.md").read_text(encoding="utf-8")


class TestMain:
    def test_it_says_what_it_does_before_and_after(self, finished):
        out, text = finished
        lines = text.splitlines()
        assert lines[:3] == [
            "Which rank?",
            f"Preset quick; rows go to {out}/ranks.jsonl, the page to "
            f"{out}/ranks/README.md.",
            "Ctrl-C stops at any time; the same command continues.",
        ]
        assert lines[3].startswith("Downloads are kept in ")
        assert lines[4] == "2 rows, 0 of them there already"
        assert lines[-2:] == [
            f"wrote {out}/ranks/README.md",
            f"wrote {out}/ranks/table.csv",
        ]

    def test_it_makes_the_rows_and_the_page(self, finished):
        out, _ = finished
        rows = RANKS.rows(out)
        assert [row["config"]["rank"] for row in rows] == [1, 2]
        assert set(rows[0]["provenance"]) >= {"versions", "commit", "date"}
        assert page_of(out).startswith("# Ranks\n\nRanks of a random model.\n")

    def test_the_same_command_trains_nothing_twice(self, out, monkeypatch, capsys):
        rows = (out / "ranks.jsonl").read_bytes()
        monkeypatch.setattr(schedule, "train_run", fail)
        RANKS.main(["--out", str(out)])
        assert "2 rows, 2 of them there already" in capsys.readouterr().out
        assert (out / "ranks.jsonl").read_bytes() == rows
        # The page is drawn whether or not there are new rows.
        assert page_of(out).startswith("# Ranks")

    def test_a_measurement_is_made_of_a_run_that_is_kept(self, tmp_path):
        FACTORS.main(["--out", str(tmp_path), "--factors", "1", "2"])
        first, second = FACTORS.rows(tmp_path)
        single = first["metrics"]["test/scaled"]
        assert second["metrics"]["test/scaled"] == 2 * single
        assert len(list(tmp_path.glob("adapters/*.safetensors"))) == 1
        page = (tmp_path / "factors" / "README.md").read_text()
        assert page.startswith("# Factors")

    def test_a_run_that_diverges_has_no_row_and_the_page_the_others(self, out, capsys):
        words = ["--out", str(out), "--ranks", "4", "--lr", "1e30"]
        with pytest.raises(SystemExit, match="1 run diverged, without a row"):
            RANKS.main(words)
        assert "learning rate" in capsys.readouterr().out
        assert len(RANKS.rows(out)) == 2
        assert page_of(out).startswith("# Ranks")

    def test_a_full_disk_while_drawing_says_that_the_rows_are_safe(
        self, out, monkeypatch
    ):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(files, "write_if_changed", full)
        message = r"could not draw into .*ranks.jsonl are safe: make room"
        with pytest.raises(OSError, match=message):
            RANKS.main(["--out", str(out)])


class TestDryRun:
    def test_it_says_what_would_be_made_and_writes_nothing(self, tmp_path, capsys):
        out = tmp_path / "out"
        RANKS.main(["--out", str(out), "--dry-run"])
        lines = capsys.readouterr().out.splitlines()
        # r (16 + 16) in each of two layers, and the head's 16 x 2 + 2.
        assert lines[-6:-2] == [
            "2 rows, 0 of them there already",
            "             adapter      head",
            "to do             64        34  rank=1",
            "to do            128        34  rank=2",
        ]
        assert lines[-2].startswith("the largest step takes ")
        assert lines[-1].startswith("about ")
        assert lines[-1].endswith(" on this machine for 2 trainings")
        assert not out.exists()

    def test_the_time_of_rows_that_the_reference_has_is_theirs(
        self, tmp_path, monkeypatch, capsys
    ):
        out = tmp_path / "out"
        words = ["--out", str(out), "--ranks", "1"]
        RANKS.main(words)
        (row,) = RANKS.file(out).read()
        # Ranks 1 and 2 are to do, and the reference has the first alone, then both.
        monkeypatch.setattr(experiment, "reference_folder", lambda: out)
        plan = ["--out", str(tmp_path / "other"), "--dry-run"]
        RANKS.main([*plan, "--ranks", "1"])
        seconds = report.clock(row["seconds"])
        text = f"about {seconds}, as the reference rows took on two cores\n"
        assert capsys.readouterr().out.endswith(text)
        RANKS.main(plan)
        assert capsys.readouterr().out.endswith(" for 2 trainings\n")

    def test_rows_that_are_one_are_counted_once(self, tmp_path, capsys):
        RANKS.main(["--out", str(tmp_path), "--ranks", "1", "1", "--dry-run"])
        text = capsys.readouterr().out
        assert "1 row, 0 of them there already" in text
        assert text.endswith(" for 1 training\n")

    def test_a_run_that_several_rows_need_is_trained_once(self, tmp_path, capsys):
        words = ["--out", str(tmp_path), "--factors", "1", "2"]
        FACTORS.main([*words, "--dry-run"])
        assert capsys.readouterr().out.endswith(" for 1 training\n")
        FACTORS.main(words)
        capsys.readouterr()
        # It is kept: the third row has nothing to train.
        FACTORS.main([*words, "3", "--dry-run"])
        text = capsys.readouterr().out
        assert "3 rows, 2 of them there already" in text
        assert "training" not in text

    def test_an_experiment_may_fill_in_the_epochs(self, tmp_path, capsys):
        """As the paper preset does, by task."""

        def two_epochs(_options, base, _benches):
            return [Measurement((base.changed(epochs=2),))]

        preset = (RankOptions(), BASE.changed(epochs=0))
        filled = RANKS._replace(presets={"quick": preset}, measurements=two_epochs)
        filled.main(["--out", str(tmp_path), "--dry-run"])
        assert "1 row, 0 of them there already" in capsys.readouterr().out
        unfilled = filled._replace(measurements=RANKS.measurements)
        with pytest.raises(ValueError, match="epochs: expected >= 1, got 0"):
            unfilled.main(["--out", str(tmp_path), "--dry-run"])

    def test_what_is_done_costs_no_time(self, out, capsys):
        RANKS.main(["--out", str(out), "--dry-run"])
        lines = capsys.readouterr().out.splitlines()
        assert lines[-2:] == [
            "done              64        34  rank=1",
            "done             128        34  rank=2",
        ]


class TestRefused:
    @pytest.mark.parametrize(
        ("flags", "text"),
        [
            (["--ranks", "17"], "rank: expected 1 <= rank <= 16"),
            (["--targets", "qeury"], "'qeury' matches no layer"),
            (["--targets", "qeury"], "there are: blocks/attention/query"),
            (["--learning-rate", "-1"], "learning_rate: expected > 0, got -1"),
            (["--lr", "0", "--batch", "0"], "got 0.0; batch: expected >= 1, got 0"),
            (["--data", "rotten-tomatos"], "is rotten-tomatoes meant?"),
            (["--data", "no.csv"], "the data file 'no.csv' does not exist"),
            (["--model", "minilm"], "'minilm'"),
            (["--model", "./nowhere"], "no directory './nowhere'"),
            (["--method", "loar"], "method: expected one of lora"),
            (["--max-length", "65"], "positions for 64 tokens, got 65"),
            (["--rows", "-5"], "rows: expected 0 or more (0 is all), got -5"),
            (["--glue-dir", "here"], "glue_dir: goes with cola, "),
            (["--data-dir", "here"], "data_dir: goes with cola, sst2"),
            (["--ranks"], "--ranks: expected at least one value, got none"),
            (["--preset", "quik"], "--preset: expected one of quick, smoke"),
        ],
    )
    def test_a_wrong_setting_before_anything_is_trained(
        self, tmp_path, monkeypatch, flags, text
    ):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises((ValueError, OSError)) as error:
            RANKS.main(["--out", str(tmp_path / "out"), *flags])
        assert text in str(error.value)
        assert not (tmp_path / "out").exists()

    def test_an_empty_list_of_options(self, tmp_path):
        with pytest.raises(ValueError) as error:
            FACTORS.main(["--out", str(tmp_path), "--factors"])
        assert str(error.value) == "--factors: expected at least one value, got none"

    def test_an_experiment_of_nothing(self, tmp_path):
        nothing = FACTORS._replace(measurements=lambda *_: [])
        with pytest.raises(ValueError) as error:
            nothing.main(["--out", str(tmp_path)])
        assert str(error.value) == (
            "nothing to do: expected at least one value in each list of options"
        )

    def test_a_mistyped_flag_ends_with_what_was_meant(self, capsys):
        with pytest.raises(SystemExit):
            RANKS.main(["--rank", "2"])
        assert "--ranks" in capsys.readouterr().err

    def test_a_folder_that_is_a_file(self, tmp_path, monkeypatch):
        (tmp_path / "out").write_text("")
        monkeypatch.setattr(schedule, "train_run", fail)
        with pytest.raises(OSError, match=r"--out: expected a folder .*File exists"):
            RANKS.main(["--out", str(tmp_path / "out")])


class TestReference:
    def test_a_page_says_whether_ones_own_rows_agree(self, out, reference):
        RANKS.draw(out)
        page = page_of(out)
        assert AGREEMENT in page
        sentence = "**Your rows and the reference rows agree**: 2 of 2 lines."
        assert sentence in page

    def test_and_where_they_do_not(self, out, reference):
        path = out / "ranks.jsonl"
        rows = results.read(path)
        path.unlink()
        for row in rows:
            # The second is off by a tenth.
            row["metrics"]["test/accuracy"] += 0.1 * (row["config"]["rank"] - 1)
            results.record(path, row)
        RANKS.draw(out)
        sentence = "**Your rows and the reference rows do not all agree**: 1 of 2"
        assert sentence in page_of(out)

    def test_rows_of_other_settings_are_not_compared(self, out, reference):
        path = out / "ranks.jsonl"
        (first, _) = results.read(path)
        path.unlink()
        first["config"]["batch"] = 8
        results.record(path, first)
        RANKS.draw(out)
        assert AGREEMENT not in page_of(out)

    def test_the_reference_is_not_compared_with_itself(self, reference):
        RANKS.draw(reference)
        assert AGREEMENT not in page_of(reference)

    def test_without_a_checkout_there_is_nothing_to_compare(self, out, monkeypatch):
        monkeypatch.setattr(experiment, "REPOSITORY", out)
        assert experiment.reference_folder() is None
        RANKS.draw(out)
        assert AGREEMENT not in page_of(out)

    def test_the_quick_preset_says_how_long_the_reference_took(
        self, tmp_path, monkeypatch, capsys
    ):
        path = tmp_path / "ranks.jsonl"
        # Timed steps have a list, which is no duration of the row.
        for rank, seconds in enumerate((150.0, 50, [1.0, 2.0]), start=1):
            row = {"config": {"rank": rank}, "metrics": {}, "seconds": seconds}
            results.record(path, {**row, "provenance": provenance.provenance()})
        monkeypatch.setattr(experiment, "reference_folder", lambda: tmp_path)
        sentence = "The 2 reference rows took 3 min 20 s on two cores."
        for preset, expected in (("quick", True), ("smoke", False)):
            words = ["--preset", preset, "--out", str(tmp_path / "out"), "--dry-run"]
            RANKS.main(words)
            assert (sentence in capsys.readouterr().out) == expected


class TestRows:
    def test_settings_that_came_later_are_at_their_defaults(self, tmp_path):
        path = tmp_path / "ranks.jsonl"
        old = {"method": "lora", "data": "tiny", "rank": 4}
        origin = provenance.provenance()
        results.record(path, {"config": old, "metrics": {}, "provenance": origin})
        (row,) = RANKS.rows(tmp_path)
        assert row["config"] == DEFAULT.changed(data="tiny", rank=4).flat()
        assert key(row["config"]) == key(old)

    def test_without_rows_nothing_is_drawn(self, tmp_path):
        assert RANKS.draw(tmp_path) == []
        assert not list(tmp_path.iterdir())


def test_the_question_is_the_first_paragraph_in_one_line():
    assert RANKS.question == "Which rank?"
    description = "Which rank\nis enough?\n\nThe paper says."
    assert RANKS._replace(description=description).question == "Which rank is enough?"
    assert RANKS._replace(description=None).question == ""


def test_a_script_prepares_its_process_first(monkeypatch):
    calls = []

    def prepare(*, cores_as_devices):
        calls.append(cores_as_devices)

    monkeypatch.setattr(process, "prepare", prepare)
    monkeypatch.setattr(process, "run_main", calls.append)
    RANKS.script()
    assert calls == [True, RANKS.main]


def test_what_trains_nothing_gets_the_default_run(tmp_path):
    bases = []

    def measurements(options, base, _benches):
        bases.append(base)
        return []

    options, _ = FACTORS.presets["quick"]
    counting = FACTORS._replace(
        presets={"quick": (options, None)}, measurements=measurements
    )
    with pytest.raises(ValueError, match="nothing to do"):
        counting.main(["--out", str(tmp_path)])
    assert bases == [RunConfig()]
