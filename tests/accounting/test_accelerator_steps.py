"""The steps that are predicted and measured on an accelerator."""

import pytest

from lora_jax.accounting import fitted_step
from lora_jax.accounting.accelerator_steps import accelerator_steps
from lora_jax.accounting.machines import MACHINES


def test_llamas_are_in_both_formats_and_lengths_and_the_rest_once():
    models = ("llama-1.2b", "llama-8b", "bert-base", "minilm-l6")
    steps = accelerator_steps(models, "h100")
    assert len(set(steps)) == len(steps) == 2 * 2 * 2 + 2
    shapes = {(step.batch, step.length) for step in steps if "llama" in step.model}
    assert shapes == {(8, 1024), (4, 2048)}
    assert {step.compute for step in steps} == {"bfloat16_activations"}
    encoders = {step.model: step for step in steps if step.quantize == "none"}
    assert encoders["bert-base"].dtype == "float32"
    assert encoders["llama-8b"].dtype == "bfloat16"
    fitted_step.check(steps)


def test_a_smaller_device_computes_more_anew():
    on_h100 = accelerator_steps(["llama-1.2b"], "h100")
    assert {step.recompute for step in on_h100} == {"none"}
    on_tpu = accelerator_steps(["llama-8b"], "v5e-1")
    assert {step.recompute for step in on_tpu} == {"block"}


@pytest.mark.parametrize("models", [("llama-9b",), ()])
def test_a_model_that_is_none_of_them_is_refused(models):
    with pytest.raises(ValueError) as caught:
        accelerator_steps(models, "h100")
    text = str(caught.value)
    assert text.startswith("models: expected some of llama-1.2b, llama-8b, bert-base")
    assert text.endswith(f"got {'llama-9b' if models else 'none'}")


@pytest.mark.parametrize("machine", ["h100x8", "v5p-64"])
def test_a_machine_of_many_devices_is_refused(machine):
    assert MACHINES[machine].devices > 1
    with pytest.raises(ValueError, match="machine: expected one of a single device"):
        accelerator_steps(["tiny-llama"], machine)
