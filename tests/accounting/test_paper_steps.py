"""Steps to compile: the papers', and those of a grid, each as on its machine."""

import pytest

from lora_jax.accounting import fitted_step, paper_steps
from lora_jax.accounting.paper_steps import crossed_steps, spread
from tests.accounting.test_fitted_step import STEP


def test_the_papers_steps_can_be_compiled():
    steps = paper_steps.paper_steps()
    assert len(set(steps)) == len(steps)
    fitted_step.check(steps)
    # Figure 6's on an H100 are with the paper's adapters too.
    narrow = [step for step in steps if step.adapter_dtype == "bfloat16"]
    assert {step.machine for step in narrow} == {"h100"} and len(narrow) == 4
    assert {step._replace(adapter_dtype="float32") for step in narrow} <= set(steps)


def test_the_papers_steps_on_some_machines():
    on_tpu = paper_steps.steps_on(["v5e-1"])
    assert {step.machine for step in on_tpu} == {"v5e-1"}
    assert paper_steps.steps_on([]) == paper_steps.paper_steps()
    for name in ("nosuch", "v5e-4"):
        with pytest.raises(ValueError) as caught:
            paper_steps.steps_on(["v5e-1", name])
        text = str(caught.value)
        assert text.startswith("machines: without --models expected some of h100, ")
        assert text.endswith(f", got {name}")


def test_a_step_is_spread_over_all_devices():
    many = STEP._replace(machine="h100x8")
    cut = spread(many, "auto", shard_base=True)
    assert (cut.mesh, cut.shard_base) == ("data=8", True)
    cut = spread(many, "data=4,model=2", shard_base=False)
    assert (cut.mesh, cut.shard_base) == ("data=4,model=2", False)
    # One device has no mesh.
    assert spread(STEP, "auto", shard_base=True) == STEP


def test_the_fastest_products_are_those_of_the_machine():
    step = STEP._replace(compute="auto")
    assert spread(step, "auto", shard_base=True).compute == "bfloat16"
    step = step._replace(machine="v5e-1")
    assert spread(step, "auto", shard_base=True).compute == "bfloat16_activations"
    # One that is named stays.
    step = step._replace(compute="float32")
    assert spread(step, "auto", shard_base=True).compute == "float32"


def test_a_grid_has_every_combination():
    names = ("batch", "length", "dtype", "compute")
    settings = {name: getattr(STEP, name) for name in names}
    axes = {
        "model": ("tiny-llama",),
        "quantize": ("none", "nf4"),
        "recompute": ("none", "block"),
        "machine": ("cpu", "h100x8"),
    }
    adaptation = {"method": "full", "targets": "query", "rank": 3}
    adaptation["adapter_dtype"] = "bfloat16"
    steps = crossed_steps(settings | adaptation, axes, mesh="auto", shard_base=True)
    assert len(set(steps)) == 8
    # Full fine-tuning has no matrices of its own, no rank, and adds nothing.
    assert {(step.targets, step.rank) for step in steps} == {("", 0)}
    assert {step.adapter_dtype for step in steps} == {"float32"}
    assert {step.mesh for step in steps} == {"", "data=8"}
