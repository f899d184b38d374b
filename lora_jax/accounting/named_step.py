"""A training step to be timed, which is chosen by names: ours, or that of a peer."""

from collections.abc import Mapping
from typing import Any

from lora_jax import methods, models
from lora_jax.accounting.peft_step import peft_step
from lora_jax.accounting.step_time import Step, compile_step

FRAMEWORKS = ("lora_jax", "peft")


def named_step(settings: Mapping[str, Any]) -> Step:
    """Return the step of a framework, ready to run.

    The settings are framework, model (a name, a directory, or a hub id), method, LoRA's
    targets and rank, batch (rows), length (tokens of each row) and compute (the dtype of
    the products). A peer has the methods full and lora.

    Raises:
        ValueError: there is no such framework or method, the method does not fit the
            model, or the peer's packages are not installed.
        OSError: there is no such model.
    """
    framework = settings["framework"]
    if framework not in FRAMEWORKS:
        raise ValueError(
            f"framework: expected one of {', '.join(FRAMEWORKS)}, got {framework!r}"
        )
    # Tokens are random: the tokenizer is not needed.
    model, _ = models.load(settings["model"])
    shape: dict[str, Any] = {
        "batch": settings["batch"],
        "length": settings["length"],
        "compute_dtype": settings["compute"],
    }
    targets = settings["targets"]
    rank = settings["rank"]
    if framework == "lora_jax":
        # Methods other than LoRA do not take these options, and ignore them.
        method = methods.make(settings["method"], targets=targets, rank=rank)
        return compile_step(model, method, **shape)
    # Without targets the peer trains the model in full.
    adapted = targets.split(",") if settings["method"] == "lora" else []
    return peft_step(model.config, targets=adapted, rank=rank, **shape)
