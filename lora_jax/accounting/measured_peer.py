"""The same step in torch and peft, on the device that torch has.

The model is random and of the same shape, stored in bfloat16 or in bitsandbytes' NF4;
adapters are float32, and products are bfloat16 by autocast.
"""

import time
from collections.abc import Mapping
from typing import Any

from lora_jax.accounting.fitted_step import FittedStep
from lora_jax.accounting.measured_step import TIMES, fitted_step_of, speed_metrics
from lora_jax.accounting.model_shapes import shaped_model
from lora_jax.accounting.peft_model import adapted_peer
from lora_jax.accounting.peft_step import import_peers
from lora_jax.accounting.step_time import Step, random_batch, time_in_turn


def measure(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a step, as `measured_step.measure` does of our own.

    Of the memory it has `bytes/peak` alone, the most that torch allocated in the steps,
    and on a processor nothing. Where the step does not fit the device, its blocks are
    computed anew; `recomputed` says what is.

    Raises:
        ValueError: a package is not installed, or the step has no peer.
    """
    step = fitted_step_of(settings)
    torch = import_peers()[0]
    on_gpu = torch.cuda.is_available()
    start = time.monotonic()
    try:
        seconds = _seconds(step, settings[TIMES])
    except torch.OutOfMemoryError:
        step = step._replace(recompute="block")
        seconds = _seconds(step, settings[TIMES])
    passed = time.monotonic() - start
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    metrics = speed_metrics(step, seconds, device)
    if on_gpu:
        metrics["bytes/peak"] = torch.cuda.max_memory_allocated()
    return {
        "metrics": metrics,
        "seconds": seconds,
        "seconds_preparing": round(passed - sum(seconds), 3),
        "device": device,
        "recomputed": step.recompute,
        "torch": torch.__version__,
    }


def _seconds(step: FittedStep, times: int) -> list[float]:
    """Return the seconds of steps; torch's count of memory begins with them."""
    cuda = import_peers()[0].cuda
    on_gpu = cuda.is_available()
    # What did not fit before is gone when this begins.
    if on_gpu:
        cuda.empty_cache()
    prepared = _prepared(step, "cuda" if on_gpu else "cpu")
    if on_gpu:
        # What it took to make the model is no part of a step.
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()
    (seconds,) = time_in_turn([prepared], times)
    return seconds


def _prepared(step: FittedStep, device: str) -> Step:
    """Return the step, ready to run on `cuda` or `cpu`."""
    torch = import_peers()[0]
    model = adapted_peer(step, device)
    if step.recompute != "none":
        _compute_blocks_anew(model)
        # Or the first block's input would need no gradient.
        model.enable_input_require_grads()
    trainable = [leaf for leaf in model.train().parameters() if leaf.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    inputs = _inputs(step, device)
    is_narrow = step.compute != "float32"

    # As the library's step: gradient, clipping, Adam.
    def run() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=is_narrow):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # Until here nobody has waited for the device.
        if device == "cuda":
            torch.cuda.synchronize()

    return Step(run, {})


def _compute_blocks_anew(model: Any) -> None:
    # transformers 5.24 has it by another name.
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        if hasattr(model, name):
            getattr(model, name)({"use_reentrant": False})
            return


def _inputs(step: FittedStep, device: str) -> dict[str, Any]:
    """The rows of our own step: random tokens, none of them padding."""
    torch = import_peers()[0]
    config = shaped_model(step.model).config
    rows = random_batch(step.batch, step.length, config.vocabulary)
    tokens = torch.tensor(rows.tokens, device=device).long()
    labels = torch.tensor(rows.label, device=device).long()
    is_encoder = hasattr(config, "segments")
    # A language model is asked for the next of the same tokens.
    return {"input_ids": tokens, "labels": labels if is_encoder else tokens}
