"""Steps to compile: those that the papers speak of, and those of a grid of settings."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from lora_jax import methods
from lora_jax.accounting.fitted_step import FittedStep
from lora_jax.accounting.machines import CPU, MACHINES
from lora_jax.train.sharding import DATA

AUTO = "auto"  # the machine's own: a mesh along `data`, the fastest products

ALL_MATRICES = "query,key,value,output,gate,up,down"
QUERY_VALUE = "query,value"

# QLoRA's Figure 6: r = 64 on all matrices, one row of 512 tokens.
_FIGURE6 = {
    "llama-7b": ("h100", "a100", "v5e-1", "cpu"),
    "llama-13b": ("h100", "a100", "v5e-1"),
    "llama-33b": ("h100", "a100"),
    "llama-65b": ("h100",),
}
# LoRA on query and value: model, rank, rows, tokens, machine.
_PLAIN = (
    ("bert-large", 8, 32, 128, "cpu"),
    ("bert-large", 8, 32, 128, "h100"),
    ("llama-1.2b", 16, 8, 1024, "h100"),
    ("llama-1.2b", 16, 1, 1024, "v5e-1"),
    ("llama-8b", 16, 8, 2048, "h100"),
    # LoRA's section 4.2: r = 4.
    ("gpt3-175b", 4, 16, 2048, "h100x16"),
    ("gpt3-175b", 4, 64, 2048, "v5p-64"),
)


def paper_steps() -> list[FittedStep]:
    """Return the steps of `experiments/fit.py` where no model is named."""
    steps = []
    for model, machines in _FIGURE6.items():
        for machine in machines:
            step = _lora(model, ALL_MATRICES, 64, 1, 512, machine, "nf4_double")
            steps.append(step)
            # The paper's own adapters.
            if machine == "h100":
                steps.append(step._replace(adapter_dtype="bfloat16"))
    for model, rank, batch, length, machine in _PLAIN:
        steps.append(_lora(model, QUERY_VALUE, rank, batch, length, machine))
    # The other half of LoRA's "1.2 TB to 350 GB".
    gpt3 = steps[-1]
    steps.append(gpt3._replace(method="full", targets="", rank=0))
    return steps


def crossed_steps(
    settings: Mapping[str, Any],
    axes: Mapping[str, Sequence[str]],
    *,
    mesh: str,
    shard_base: bool,
) -> list[FittedStep]:
    """Return a step for each combination of the values of the axes.

    `settings` are the fields that all steps have. A method other than LoRA has no
    targets, and rank 0; one that adds nothing has no adapters in bfloat16. A mesh of
    "auto" is that of each machine.
    """
    shared = dict(settings)
    if shared["method"] != "lora":
        shared |= {"targets": "", "rank": 0}
    if shared["method"] in methods.WITHOUT_ADAPTERS:
        shared["adapter_dtype"] = "float32"
    steps = []
    for values in product(*axes.values()):
        varying: dict[str, Any] = dict(zip(axes, values, strict=True))
        step = FittedStep(**shared, **varying)
        steps.append(spread(step, mesh, shard_base=shard_base))
    return steps


def spread(step: FittedStep, mesh: str, *, shard_base: bool) -> FittedStep:
    """Return the step on a mesh of all devices of its machine.

    With "auto" all are along `data`. A single device has no mesh. A compute of "auto"
    is what is fastest on the machine.
    """
    step = _with_compute(step)
    # One that is not known is an error of `check`.
    if step.machine not in MACHINES:
        return step
    count = MACHINES[step.machine].devices
    if count == 1 and mesh == AUTO:
        return step
    shape = f"{DATA}={count}" if mesh == AUTO else mesh
    return step._replace(mesh=shape, shard_base=shard_base)


def _with_compute(step: FittedStep) -> FittedStep:
    """Return the step with what a compute of "auto" means on its machine."""
    if step.compute != AUTO:
        return step
    # As `nn.precision.fast_dtype` chooses where the machine is at hand.
    compute = "bfloat16" if step.machine == CPU.name else "bfloat16_activations"
    return step._replace(compute=compute)


def _lora(
    model: str,
    targets: str,
    rank: int,
    batch: int,
    length: int,
    machine: str,
    quantize: str = "none",
) -> FittedStep:
    step = FittedStep(
        model,
        "lora",
        targets,
        rank,
        quantize,
        batch=batch,
        length=length,
        machine=machine,
        dtype="bfloat16",
        compute=AUTO,
        recompute="block",
    )
    return spread(step, AUTO, shard_base=True)


def steps_on(names: Sequence[str]) -> list[FittedStep]:
    """Return the papers' steps on these machines; without a name all of them.

    Raises:
        ValueError: the papers have no step on a machine of such a name.
    """
    steps = paper_steps()
    # In their order, each once.
    known = list(dict.fromkeys(step.machine for step in steps))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"machines: without --models expected some of {', '.join(known)}, "
            f"got {', '.join(unknown)}"
        )
    return [step for step in steps if not names or step.machine in names]
