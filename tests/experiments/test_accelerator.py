"""The experiment on accelerators: what there is to measure, and a smoke run's rows."""

from collections import Counter

import accelerator
import jax
import pytest

from lora_jax.accounting import machines, peft_model

EXPERIMENT = accelerator.EXPERIMENT
SMOKE = ["--preset", "smoke"]


def settings(options):
    return [item.settings for item in accelerator.measurements(options, None, None)]


def test_on_a_gpu_there_is_all_that_is_aimed_at(monkeypatch):
    monkeypatch.setattr(machines, "find_spec", lambda name: name)
    monkeypatch.setattr(peft_model, "find_spec", lambda name: name)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    items = settings(accelerator.Options())
    counts = Counter(item["part"] for item in items)
    assert counts == {
        "predictions": 10,
        "steps": 10,
        "peers": 10,
        "population": 1,
        "tests": 6,
    }
    (population,) = [item for item in items if item["part"] == "population"]
    cells = len(population["sets"]) * len(population["ranks"]) * population["seeds"]
    assert cells == 75


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--minutes", "0"], "minutes: expected 1 or more, got 0"),
        (["--groups", "none"], "groups: expected some of methods, quantization"),
        (["--only", "step"], "only: expected some of predictions, steps"),
        (["--models", "llama-9b"], "models: expected some of llama-1.2b"),
        (["--machine", "h1000"], "machine: expected one of cpu, h100"),
        (["--seeds", "0"], "seeds: expected 1 or more"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(flags, text, tmp_path):
    with pytest.raises(ValueError) as error:
        EXPERIMENT.main([*SMOKE, "--out", str(tmp_path), *flags])
    assert text in str(error.value)
    assert not list(tmp_path.iterdir())


def test_rows_that_are_left_out_come_with_the_next_command(tmp_path, monkeypatch):
    late = accelerator.in_minutes(0)
    words = [
        *SMOKE,
        "--only",
        "predictions",
        "--out",
        str(tmp_path),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(accelerator, "in_minutes", lambda minutes: late)
        EXPERIMENT.main(words)
    assert EXPERIMENT.rows(tmp_path) == []
    EXPERIMENT.main(words)
    (row,) = EXPERIMENT.rows(tmp_path)
    assert row["config"]["part"] == "predictions"
