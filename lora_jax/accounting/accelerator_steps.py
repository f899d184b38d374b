"""The steps that `experiments/accelerator.py` predicts, and measures where it can."""

from collections.abc import Sequence
from typing import Any

from lora_jax import train
from lora_jax.accounting.fitted_step import FittedStep, step_shapes
from lora_jax.accounting.machines import device_memory, find_machine
from lora_jax.accounting.paper_steps import AUTO, QUERY_VALUE, spread
from lora_jax.train import remat

LLAMAS = ("llama-1.2b", "llama-8b")
FORMATS = ("none", "nf4")
# Rows x tokens; what says most comes first, for the time may end.
_LONG = ((8, 1024), (4, 2048))
# Encoders as the experiments train them: rank, rows, tokens.
_ENCODERS = {"bert-base": (8, 32, 128), "minilm-l6": (8, 32, 64)}
_LLAMA_RANK = 16
# For a smoke run: a tiny random one, in NF4 alone.
TINY = "tiny-llama"
_TINY_SHAPE = (2, 4, 16)
MODELS = (*LLAMAS, *_ENCODERS, TINY)


def accelerator_steps(models: Sequence[str], machine: str) -> list[FittedStep]:
    """Return the steps of these models: LoRA on query and value.

    Those of Llamas are on a base in bfloat16 and in NF4. What the backward pass
    computes anew is what training would choose on the machine.

    Raises:
        ValueError: there is no such machine, or no such model here.
    """
    unknown = [name for name in models if name not in MODELS]
    if unknown or not models:
        listed = ", ".join(unknown) or "none"
        raise ValueError(f"models: expected some of {', '.join(MODELS)}, got {listed}")
    if find_machine(machine).devices > 1:
        raise ValueError(f"machine: expected one of a single device, got {machine}")
    steps = []
    for batch, length in _LONG:
        for model in models:
            if model in LLAMAS:
                steps += _in_formats(model, _LLAMA_RANK, batch, length, machine)
    for model, shape in _ENCODERS.items():
        if model in models:
            # Nobody quantizes an encoder of this size.
            steps.append(_in_formats(model, *shape, machine)[0])
    if TINY in models:
        steps.append(_in_formats(TINY, *_TINY_SHAPE, machine)[-1])
    return [step._replace(recompute=_recomputed(step)) for step in steps]


def _in_formats(
    model: str, rank: int, batch: int, length: int, machine: str
) -> list[FittedStep]:
    # Encoders are stored as `models.load` has them: their head is trained.
    dtype = "bfloat16" if "llama" in model else "float32"
    steps = []
    for quantize in FORMATS:
        step = FittedStep(
            model,
            "lora",
            QUERY_VALUE,
            rank,
            quantize,
            dtype=dtype,
            compute=AUTO,
            batch=batch,
            length=length,
            recompute=AUTO,
            machine=machine,
        )
        steps.append(spread(step, AUTO, shard_base=False))
    return steps


def _recomputed(step: FittedStep) -> str:
    """Return what training computes anew where nobody says it."""
    trainable, frozen = step_shapes(step)
    settings: Any = {"compute_dtype": step.compute, "batch": step.batch}
    config = remat.resolved(
        train.TrainConfig(**settings),
        trainable,
        frozen,
        rows=step.batch,
        length=step.length,
        memory=device_memory(find_machine(step.machine)),
    )
    return config.remat
