"""Training of an adapted classifier, regressor or language model.

Only the trainable tree is differentiated and seen by the optimiser. There is one jitted step for each batch width; whatever a
sweep changes between runs (learning rate, alpha, seed, and ranks padded alike) is data to it, so runs share its compilation.
"""

import itertools
import math
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from lora_jax import data, devices, tree
from lora_jax.checkpoints import training_state
from lora_jax.models.decoder import Decoder
from lora_jax.nn import precision
from lora_jax.nn.layers import fold_key
from lora_jax.train import classification, language_modeling
from lora_jax.train.config import TrainConfig


class Static(NamedTuple):
    """What of the settings is compiled into the step."""

    accumulate: int
    weight_decay: float
    clip: float
    label_smoothing: float
    hidden_dropout: float
    compute: str
    offload: bool = False


class Progress(NamedTuple):
    """Said after each step: epoch and step from 1, the loss of the step before (NaN at first), tokens done."""

    epoch: int
    step: int
    steps: int
    loss: float
    tokens: int


LOWER = ("loss", "perplexity")  # metrics of which less is better


class Fit(NamedTuple):
    """A finished training: the model of the best epoch, and how it went."""

    model: Any
    best_epoch: int
    validation: list[
        dict[str, float]
    ]  # metrics after each epoch, empty without validation data
    losses: np.ndarray  # of every step
    tokens: int  # real tokens trained on


class Diverged(FloatingPointError):
    """The loss is not finite."""


def check(settings: TrainConfig) -> None:
    """Raises one ValueError that lists every setting outside its range."""
    bounds = {
        "learning_rate": (settings.learning_rate > 0, "> 0"),
        "epochs": (settings.epochs >= 1, ">= 1"),
        "batch": (settings.batch >= 1, ">= 1"),
        "accumulate": (
            settings.accumulate >= 1 and settings.batch % settings.accumulate == 0,
            ">= 1 and a divisor of batch",
        ),
        "weight_decay": (settings.weight_decay >= 0, ">= 0"),
        "warmup": (0 <= settings.warmup < 1, "a share in [0, 1)"),
        "clip": (settings.clip >= 0, ">= 0 (0: none)"),
        "label_smoothing": (0 <= settings.label_smoothing < 1, "in [0, 1)"),
        "hidden_dropout": (0 <= settings.hidden_dropout < 1, "in [0, 1)"),
        "compute_dtype": (settings.compute_dtype in ("float32", "bfloat16"), "float32 or bfloat16"),
        "offload": (
            not settings.offload or devices.HOST in devices.memory_kinds(),
            f"a backend that can also keep arrays in {devices.HOST} memory, as GPUs and TPUs can (this one: "
            f"{', '.join(devices.memory_kinds())})",
        ),
    }
    wrong = {name: expected for name, (holds, expected) in bounds.items() if not holds}
    if wrong:
        said = [
            f"{name}: expected {expected}, got {getattr(settings, name)}"
            for name, expected in wrong.items()
        ]
        raise ValueError("; ".join(said))


def static(settings: TrainConfig) -> Static:
    """The part of the settings that is compiled."""
    values = {name: getattr(settings, name) for name in Static._fields if name != "compute"}
    return Static(**values, compute=settings.compute_dtype)


def rate(settings: TrainConfig, step: int, steps: int) -> float:
    """The learning rate of step 0 … steps - 1: linear warm-up, never zero, then linear decay."""
    warm = math.ceil(settings.warmup * steps)
    return settings.learning_rate * min(
        (step + 1) / max(1, warm), (steps - step) / max(1, steps - warm)
    )


def optimizer(static: Static) -> optax.GradientTransformation:
    """AdamW without its learning rate, which is given to each step. Clipping sees the trainable gradient alone."""
    clip = [optax.clip_by_global_norm(static.clip)] if static.clip else []
    return optax.chain(
        *clip,
        optax.scale_by_adam(),
        optax.add_decayed_weights(static.weight_decay, decayed),
    )


def decayed(trainable: Any) -> Any:
    """The mask of weight decay: matrices, but no bias and no norm."""

    def matrix(keys, leaf):
        return not re.search(r"(^|/)bias(/|$)|norm\w*/scale(/|$)", tree.path_name(keys))

    return jax.tree_util.tree_map_with_path(matrix, trainable)


def objective(
    model: Any, batch: Any, key: Key[Array, ""], static: Static
) -> tuple[Array, Array]:
    """The losses of a batch, summed, and of how much: rows or, of a language model, tokens."""
    random = {"rate": static.hidden_dropout, "key": key}
    if isinstance(model, Decoder):
        return language_modeling.loss(
            model,
            batch,
            compute_dtype=static.compute,
            smoothing=static.label_smoothing,
            **random,
        )
    return classification.loss(model, batch, smoothing=static.label_smoothing, **random)


def gradient(
    trainable: Any, frozen: Any, batch: data.Batch, key: Key[Array, ""], static: Static
) -> tuple[Array, Any]:
    """The batch's mean loss and its gradient by the trainable tree, summed over micro-batches."""

    def total(trainable, part, key):
        model = precision.cast_kernels(tree.merge(trainable, frozen), static.compute)
        return objective(model, part, key, static)

    if static.accumulate == 1:
        (value, count), gradients = jax.value_and_grad(total, has_aux=True)(
            trainable, batch, key
        )
    else:
        # Each micro-batch takes every so-manieth row, so that it is spread over the devices as the batch is.
        parts = jax.tree.map(
            lambda leaf: leaf.reshape(-1, static.accumulate, *leaf.shape[1:]).swapaxes(
                0, 1
            ),
            batch,
        )

        def add(sums, numbered):
            index, part = numbered
            one = jax.value_and_grad(total, has_aux=True)(
                trainable, part, fold_key(key, index)
            )
            return jax.tree.map(jnp.add, sums, one), None

        zeros = (jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, trainable)
        ((value, count), gradients), _ = jax.lax.scan(
            add, zeros, (jnp.arange(static.accumulate), parts)
        )
    return value / count, jax.tree.map(lambda leaf: leaf / count, gradients)


@partial(jax.jit, static_argnames="static", donate_argnames=("trainable", "state"))
def train_step(
    trainable,
    state,
    frozen,
    batch: data.Batch,
    rate: Array,
    key: Key[Array, ""],
    *,
    static: Static,
):
    """One update: (trainable, optimiser state, loss)."""
    value, gradients = gradient(trainable, frozen, batch, key, static)
    if static.offload:  # the moments come for the update, when the activations are gone, and so add nothing to the peak
        state = jax.device_put(state, jax.memory.Space.Device)
    updates, state = optimizer(static).update(gradients, state, trainable)
    if static.offload:
        state = jax.device_put(state, jax.memory.Space.Host)
    trainable = optax.apply_updates(
        trainable, jax.tree.map(lambda update: -rate * update, updates)
    )
    return trainable, state, value


class _State(NamedTuple):
    """Where a training stands before a step: all that the rest of it depends on."""

    trainable: Any
    optimizer: Any
    best: Any  # the trainable tree of the best epoch so far
    facts: dict[str, Any]  # best_epoch, best_score, validation, tokens, losses


def fit(
    model: Any,
    mask: Any,
    encoded: data.Encoded,
    settings: TrainConfig,
    *,
    seed: int,
    widths: Sequence[int],
    pad: int,
    score: Callable[[Any], dict[str, float]] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    resume: Path | None = None,
    every: float = 120.0,
) -> Fit:
    """Train the leaves that `mask` marks; the model of the epoch whose first score is best (without `score`, the last).

    `score` gives a model's validation metrics. The whole run is a function of model, data, settings and seed. With
    `resume`, a folder, its state is saved there `every` so many seconds, and a run that was killed goes on from there.

    Raises:
        ValueError: a setting outside its range, or what `resume` holds is of another training.
        Diverged: the loss is not finite; says step and learning rate.
    """
    check(settings)
    fixed, mesh = static(settings), devices.mesh(settings.batch // settings.accumulate)
    trainable, whole = tree.split(model, mask)
    frozen = devices.replicate(
        precision.cast_kernels(whole, settings.compute_dtype), mesh
    )  # once, not in every step
    at = _restored(resume, _start(devices.replicate(trainable, mesh), fixed, mesh))
    losses, a_epoch = (
        at.facts["losses"],
        math.ceil(len(encoded.lengths) / settings.batch),
    )
    steps, root, saved = (
        settings.epochs * a_epoch,
        jax.random.key(seed),
        time.monotonic(),
    )
    for epoch in range(len(losses) // a_epoch, settings.epochs):
        order = data.batches(
            encoded, size=settings.batch, widths=widths, seed=seed, epoch=epoch, pad=pad
        )
        for batch in itertools.islice(order, len(losses) % a_epoch, None):
            step = len(losses)
            if resume and time.monotonic() - saved > every:
                _save(resume, at)
                saved = time.monotonic()
            now, key = (
                jnp.float32(rate(settings, step, steps)),
                jax.random.fold_in(root, step),
            )
            rows = devices.shard_rows(batch, mesh)
            trainable, state, value = train_step(
                at.trainable, at.optimizer, frozen, rows, now, key, static=fixed
            )
            at = at._replace(trainable=trainable, optimizer=state)
            losses.append(value)
            at.facts["tokens"] += int(batch.length[batch.index >= 0].sum())
            # The loss of the step before: reading this one would wait for it before the next batch is made.
            last = _finite(losses, step - 1, steps, settings) if step else math.nan
            report(Progress(epoch + 1, step + 1, steps, last, at.facts["tokens"]))
        _finite(losses, len(losses) - 1, steps, settings)
        at = _chosen(
            at,
            epoch + 1,
            score(tree.merge(devices.to_first_device(at.trainable), whole))
            if score
            else None,
        )
    done = {name: at.facts[name] for name in ("best_epoch", "validation", "tokens")}
    return Fit(
        tree.merge(devices.to_first_device(at.best), whole),
        losses=np.array(losses, np.float32),
        **done,
    )


def _start(trainable: Any, static: Static, mesh: Any) -> _State:
    facts = {
        "best_epoch": 0,
        "best_score": None,
        "validation": [],
        "tokens": 0,
        "losses": [],
    }
    mine, best = (
        jax.tree.map(jnp.copy, trainable) for _ in range(2)
    )  # the step donates it; the caller's stays whole
    state = devices.replicate(optimizer(static).init(mine), mesh, host=static.offload)
    return _State(mine, state, best, facts)


def _chosen(at: _State, epoch: int, metrics: dict[str, float] | None) -> _State:
    """The state after an epoch: its metrics noted, and its trainable tree kept if it is the best so far."""
    at.facts["validation"] += [] if metrics is None else [metrics]
    name, score = ("epoch", epoch) if metrics is None else next(iter(metrics.items()))
    score = -score if name in LOWER else score
    if at.facts["best_score"] is not None and score <= at.facts["best_score"]:
        return at
    at.facts.update(best_epoch=epoch, best_score=score)
    return at._replace(best=jax.tree.map(jnp.copy, at.trainable))


def _save(folder: Path, state: _State) -> None:
    facts = state.facts | {"losses": [float(loss) for loss in state.facts["losses"]]}
    training_state.save(folder, len(facts["losses"]), jax.tree.leaves(state[:3]), facts)


def _restored(folder: Path | None, start: _State) -> _State:
    """The state saved in the folder, else `start`."""
    leaves, structure = jax.tree.flatten(start[:3])
    found = training_state.restore(folder, leaves) if folder else None
    if found is None:
        return start
    trainable, state, best = jax.tree.unflatten(structure, found[0])
    return _State(trainable, state, best, found[1])


def _finite(losses: list[Any], step: int, steps: int, settings: TrainConfig) -> float:
    value = float(losses[step])
    if not math.isfinite(value):
        raise Diverged(
            f"the loss is {value} at step {step + 1} of {steps}, learning rate {rate(settings, step, steps):.3g}: "
            f"expected a finite one. Try a lower learning rate, a longer warm-up, or float32 compute."
        )
    return value
