"""What holds of every experiment: its reference rows, its page, its help, a smoke run."""

import itertools
import shutil
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import nlg
import pytest

from lora_jax import data, methods
from lora_jax.accounting import machines
from lora_jax.experiment import Measurement, RunConfig, flags, schedule
from lora_jax.experiment.experiment import reference_folder
from lora_jax.experiment.identity import key
from lora_jax.experiment.workbench import Workbenches
from lora_jax.plural import counted
from lora_jax.results import files, report

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "report")
REFERENCE = reference_folder()
WITH_ROWS = [name for name in NAMES if (REFERENCE / f"{name}.jsonl").exists()]
# These load the pretrained model to know its matrices.
LOADING = ("amplification", "subspace_similarity", "svd_truncation", "weight_selection")
# Options beside the quick preset's that the reference rows were made with.
OPTIONS = {
    "nlg": {"methods": nlg.ALL_METHODS},
    "throughput": {"peer": "peft"},
    "accelerator": {"cpu": True},
}
# A smoke run of these generates texts: two tokens are enough.
FLAGS = {
    "nlg": ["--methods", "lora", "--new-tokens", "2"],
    "rank_sweep_nlg": ["--ranks", "1", "--new-tokens", "2"],
    "gpt3_tables": ["--methods", "none", "--new-tokens", "2"],
}


def experiment(name):
    return import_module(name).EXPERIMENT


@pytest.fixture(scope="module", params=WITH_ROWS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def rows(name):
    return experiment(name).rows(REFERENCE)


@pytest.fixture(scope="module")
def drawn(name, rows):
    """The report of all reference rows."""
    return experiment(name).report(rows)


class TestReference:
    def test_its_rows_draw_the_committed_page_and_table(self, name, drawn):
        folder = REFERENCE / name
        page = (folder / "README.md").read_text(encoding="utf-8")
        assert report.markdown(drawn) == page
        table = (folder / "table.csv").read_bytes()
        assert files.csv(drawn.data) == table

    def test_each_figure_of_the_page_is_committed(self, name, drawn):
        names = {report.figure_name(suffix) for suffix in drawn.figures}
        assert {path.name for path in (REFERENCE / name).glob("*.png")} == names

    def test_a_page_is_drawn_from_each_row_alone(self, name, rows):
        first_seed = min(seed_of(row) for row in rows)
        for row in rows:
            # Rows of other seeds make the same page.
            if seed_of(row) == first_seed:
                assert report.markdown(experiment(name).report([row]))

    def test_ones_own_rows_stand_beside_it(self, name, rows, tmp_path, monkeypatch):
        monkeypatch.setattr(files, "png", lambda figure: b"")
        shutil.copy(REFERENCE / f"{name}.jsonl", tmp_path)
        experiment(name).draw(tmp_path)
        page = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert "## Yours and the reference\n" in page
        assert "**Your rows and the reference rows agree**" in page


def seed_of(row) -> int:
    return row["config"].get("seed", 0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.real] if name in LOADING else [])
        for name in WITH_ROWS
    ],
)
def test_the_reference_rows_are_those_of_the_quick_preset(name, monkeypatch):
    """Somebody with the same data and dtype must not make them again."""
    # The compilers need not be installed.
    if name in ("fit", "accelerator"):
        monkeypatch.setattr(machines, "missing_compilers", lambda names: [])
    if name == "gpt3_tables":  # the data of its first task is in no package
        monkeypatch.setattr(data, "load", lambda *_, **__: None)
    rows = experiment(name).rows(REFERENCE)
    options, base = experiment(name).presets["quick"]
    options = type(options)(**{**vars(options), **OPTIONS.get(name, {})})
    run = base if base is None else with_sources(base, rows)
    items = experiment(name).measurements(options, run or RunConfig(), Workbenches())
    keys = {with_dtype(item, rows).key() for item in items}
    missing = [row["config"] for row in rows if key(row["config"]) not in keys]
    assert missing == []


def with_sources(base: RunConfig, rows) -> RunConfig:
    """The run on the machine of the rows: its model, its data, its dtype."""
    config = rows[0]["config"]
    config = config.get("left", config)
    changes = {name: config[name] for name in ("model_source", "data_source")}
    if base.data.data == "e2e":
        changes["data_dir"] = "e2e-dataset.zip"
    return base.changed(**changes)


def with_dtype(item: Measurement, rows) -> Measurement:
    """The measurement with what `auto` meant on the machine of the rows."""
    dtypes = set()
    for row in rows:
        config = row["config"]
        dtypes.add(config.get("left", config).get("compute"))
    fast = "bfloat16" if "bfloat16" in dtypes else "float32"
    runs = []
    for run in item.runs:
        is_auto = run.train.compute_dtype == "auto"
        runs.append(run.changed(compute=fast) if is_auto else run)
    return item._replace(runs=tuple(runs))


@pytest.mark.parametrize("name", NAMES)
def test_help_names_the_options(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        experiment(name).main(["--help"])
    text = capsys.readouterr().out
    options, _ = experiment(name).presets["quick"]
    for option in fields(options):
        flag = option.name.replace("_", "-")
        # A switch that is on has a flag that turns it off.
        is_on = getattr(options, option.name) is True
        assert (f"--no-{flag}" if is_on else f"--{flag}") in text


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_run_makes_rows_and_a_page_and_a_second_one_nothing(
    name, tmp_path, capsys, monkeypatch
):
    words = ["--preset", "smoke", *FLAGS.get(name, []), "--out", str(tmp_path)]
    experiment(name).main(words)
    rows = experiment(name).rows(tmp_path)
    assert rows
    for row in rows:
        assert row["provenance"]["versions"]["jax"]
    page = (tmp_path / name / "README.md").read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(schedule, "train_run", fail)
    monkeypatch.setattr(schedule.Schedule, "_load", fail)
    experiment(name).main(words)
    text = capsys.readouterr().out
    assert f"{counted(len(rows), 'row')}, {len(rows)} of them there already" in text
    assert experiment(name).rows(tmp_path) == rows
    assert (tmp_path / name / "README.md").read_bytes() == page


def fail(*_, **__):
    pytest.fail("a run was trained or loaded though no row is missing")


@pytest.mark.parametrize("name", NAMES)
def test_each_flag_has_a_text(name):
    for options, base in experiment(name).presets.values():
        listed = flags.option_flags(options)
        # An option without a text would be no flag, and could never be set.
        assert [flag.name for flag in listed] == list(vars(options))
        if base is not None:
            groups = flags.run_flags(base, [*methods.METHODS], set())
            listed += itertools.chain.from_iterable(groups.values())
        listed += flags.command_flags("quick", {}) + flags.process_flags(keep=True)
        assert [flag.name for flag in listed if not flag.help.strip()] == []
