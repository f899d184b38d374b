"""The parts of the experiment on accelerators: which there are, and what is left out."""

import jax
import pytest

from lora_jax.accounting import machines, measured_step, peft_model
from lora_jax.accounting.measure_apart import LeftOut, in_minutes
from lora_jax.experiment import accelerator_parts
from lora_jax.experiment.accelerator_parts import (
    PARTS,
    Sitting,
    part_measurements,
    possible_parts,
)
from tests.accounting.test_fitted_step import STEP

NF4 = STEP._replace(quantize="nf4")
HERE = Sitting(in_minutes(10), apart=False)
LATE = Sitting(in_minutes(0), apart=False)


@pytest.fixture
def complete(monkeypatch):
    """A machine with a GPU, all compilers and all packages."""
    monkeypatch.setattr(machines, "find_spec", lambda name: name)
    monkeypatch.setattr(peft_model, "find_spec", lambda name: name)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def rows_of(sitting, parts, steps=(STEP, NF4)):
    return part_measurements(
        sitting, parts, steps, times=1, population={"model": "tiny"}, groups=("trees",)
    )


def test_with_a_gpu_there_are_all_parts_in_the_order_that_is_asked_for(complete):
    assert possible_parts((), "h100", cpu=False) == list(PARTS)
    only = ("tests", "steps")
    assert possible_parts(only, "h100", cpu=False) == list(only)
    items = rows_of(HERE, only)
    assert [item.settings["part"] for item in items] == ["tests", "steps", "steps"]
    assert items[1].measure == items[2].measure != items[0].measure


def test_without_one_predictions_are_left_and_the_rest_is_named(
    complete, monkeypatch, capsys
):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert possible_parts((), "h100", cpu=False) == ["predictions"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "left out: steps: expected a GPU or TPU, got a processor; --cpu measures on it"
    )
    assert len(lines) == 4
    assert possible_parts((), "h100", cpu=True) == list(PARTS)


def test_a_part_that_is_named_and_cannot_be_measured_is_an_error(monkeypatch):
    monkeypatch.setattr(machines, "find_spec", {"jaxlib": object()}.get)
    monkeypatch.setattr(peft_model, "find_spec", lambda name: None)
    with pytest.raises(ValueError) as caught:
        possible_parts(("predictions", "peers", "steps"), "h100", cpu=True)
    text = str(caught.value)
    assert text.startswith("predictions: h100: expected XLA's compiler for GPUs")
    assert "; peers: expected torch, transformers, peft" in text
    assert "steps" not in text
    with pytest.raises(
        ValueError, match=r"only: expected some of predictions, .*, got test"
    ):
        possible_parts(("test",), "cpu", cpu=True)


def test_a_peer_without_bitsandbytes_has_no_quantized_base(monkeypatch, capsys):
    monkeypatch.setattr(peft_model, "find_spec", lambda name: None)
    items = rows_of(HERE, ["steps", "peers"])
    frameworks = [item.settings["framework"] for item in items]
    assert frameworks == ["lora_jax", "lora_jax", "peft"]
    assert "left out: peers of steps on a quantized base: expected bitsandbytes" in (
        capsys.readouterr().out
    )


def test_steps_have_rows_of_their_own(monkeypatch):
    monkeypatch.setattr(peft_model, "find_spec", lambda name: name)
    items = rows_of(HERE, PARTS)
    assert len({item.key() for item in items}) == len(items) == 3 * 2 + 2


def test_a_prediction_has_what_the_compiler_says_and_the_papers_count():
    (item,) = rows_of(HERE, ["predictions"], steps=[STEP])
    (row,) = HERE.predictions((), [item.settings])
    assert row["metrics"]["bytes/total"] > 0
    expected = measured_step.nominal_operations(STEP)
    assert row["metrics"]["step/nominal_operations"] == expected


def test_when_time_is_up_the_rest_is_named_and_left_out(capsys):
    for part in PARTS:
        items = rows_of(LATE, [part], steps=[STEP])
        settings = [item.settings for item in items]
        assert list(items[0].measure((), settings)) == [None]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "left out: predictions tiny-llama none 4 16: time was up"
    assert "left out: tests trees: time was up" in lines
    # Packages of peers that are missing here are named beside.
    late = [line for line in lines if line.endswith("time was up")]
    assert len(late) == len(PARTS)


def test_what_cannot_be_measured_is_said_and_the_rest_goes_on(monkeypatch, capsys):
    def measure(settings):
        if settings["quantize"] == "nf4":
            raise ValueError("expected bitsandbytes")
        return {"metrics": {}}

    monkeypatch.setattr(measured_step, "measure", measure)
    settings = [item.settings for item in rows_of(HERE, ["steps"], steps=(NF4, STEP))]
    assert list(HERE.steps((), settings)) == [None, {"metrics": {}}]
    assert "nf4 4 16: expected bitsandbytes" in capsys.readouterr().out


def test_apart_each_is_measured_in_its_process(monkeypatch):
    calls = []

    def answers(module, settings, deadline):
        calls.append((module, len(settings), deadline))
        yield {"metrics": {}}
        yield LeftOut("out of memory")

    monkeypatch.setattr(accelerator_parts.measure_apart, "answers", answers)
    apart = HERE._replace(apart=True)
    settings = [item.settings for item in rows_of(apart, ["steps"])]
    assert list(apart.steps((), settings)) == [{"metrics": {}}, None]
    assert calls == [("lora_jax.accounting.measured_step", 2, HERE.deadline)]
