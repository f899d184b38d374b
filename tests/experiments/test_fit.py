"""The experiment on steps that fit: what is compiled, and what is refused."""

import fit
import pytest

from lora_jax.accounting import machines
from lora_jax.accounting.paper_steps import paper_steps

EXPERIMENT = fit.EXPERIMENT
SMOKE = ["--preset", "smoke"]


@pytest.fixture
def installed(monkeypatch):
    """All compilers, as far as anybody asks."""
    monkeypatch.setattr(machines, "find_spec", lambda name: name)


@pytest.fixture
def bare(monkeypatch):
    """No compiler but this machine's."""
    monkeypatch.setattr(machines, "find_spec", {"jaxlib": object()}.get)


def settings(options):
    return [item.settings for item in fit.measurements(options, None, None)]


def test_without_a_model_the_steps_are_the_papers(installed):
    steps = settings(fit.Options())
    assert steps == [step._asdict() for step in paper_steps()]
    models = {(step["model"], step["machine"]) for step in steps}
    assert {("llama-65b", "h100"), ("gpt3-175b", "v5p-64")} <= models
    of_tpus = settings(fit.Options(machines=("v5e-1",)))
    assert {step["machine"] for step in of_tpus} == {"v5e-1"}


def test_with_a_model_they_are_those_of_the_flags(installed):
    options = fit.Options(
        models=("llama-8b",),
        machines=("cpu", "v5e-4"),
        quantize=("none", "nf4"),
        remat=("none", "block"),
        batch=4,
    )
    steps = settings(options)
    assert len(steps) == 2 * 2 * 2
    for step in steps:
        is_single = step["machine"] == "cpu"
        assert step["mesh"] == ("" if is_single else "data=4")
        assert step["shard_base"] != is_single
    (full,) = settings(fit.Options(models=("bert-large",), method="full"))
    assert (full["targets"], full["rank"], full["machine"]) == ("", 0, "cpu")


def test_compilers_that_are_missing_are_named_and_the_rest_is_compiled(bare, capsys):
    steps = settings(fit.Options())
    assert {step["machine"] for step in steps} == {"cpu"}
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["left out", "left out"]
    assert "pip install -e '.[cuda]'" in lines[0]
    assert "pip install -e '.[tpu]'" in lines[1]


def test_a_machine_that_is_named_needs_its_compiler(bare, tmp_path):
    words = ["--out", str(tmp_path), "--machines", "h100", "v5e-1"]
    with pytest.raises(ValueError, match=r"h100: .*\[cuda\].*; v5e-1: .*\[tpu\]"):
        EXPERIMENT.main(words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--models", "llama-9b"], "model: expected one of llama-7b"),
        (["--machines", "h1000"], "machine: expected one of cpu, h100"),
        (["--length", "1025"], "at least 1 row of 1 to 1024 tokens"),
        (["--machines", "cpu", "--mesh", "data=2"], "mesh: expected 1 device"),
        (["--quantize", "nf5"], "quantize: expected one of"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_compiled(flags, text, tmp_path):
    with pytest.raises(ValueError) as error:
        EXPERIMENT.main([*SMOKE, "--out", str(tmp_path), *flags])
    assert text in str(error.value)
    assert not list(tmp_path.iterdir())


def test_steps_that_differ_have_rows_of_their_own(installed):
    options = fit.Options(
        models=("llama-8b",),
        machines=("cpu", "v5e-4"),
        quantize=("none", "nf4"),
        remat=("none", "block", "products"),
        batch=4,
    )
    items = fit.measurements(options, None, None)
    assert len({item.key() for item in items}) == len(items) == 12
