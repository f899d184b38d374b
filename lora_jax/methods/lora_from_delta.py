"""A LoRA adapter out of a model that was fine-tuned in full.

Of all matrices of rank r, the first r singular directions of ΔW = W - W0 leave the least
Frobenius error: the root of the sum of the other singular values squared (Eckart and
Young 1936). The error is zero if ΔW has no more directions.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lora_jax import tree
from lora_jax.methods.base import HEAD, matrix_name
from lora_jax.methods.base import targets as target_layers
from lora_jax.methods.lora import LoRA, LoRAEmbedding

DIFFERENCES_NAMED = 5  # in an error


class SVD(NamedTuple):
    """ΔW = u diag(s) vt as a kernel [i, o], with s falling.

    Where layers are stacked, all three have a leading layer axis.
    """

    u: Float[Array, "... i k"]
    s: Float[Array, "... k"]
    vt: Float[Array, "... k o"]


def lora_from_delta(
    base: Any,
    tuned: Any,
    *,
    targets: str = "query,value",
    rank: int = 8,
    others: Literal["base", "tuned"] = "base",
) -> Any:
    """Return `base` with LoRA layers that turn its target matrices into those of `tuned`.

    A is u sqrt(s) and B is sqrt(s) vt, with a scale of 1.

    Args:
        base: a model before its fine-tuning.
        tuned: the model after it. Adapters are to be merged first.
        targets: layers to adapt, as names (`query,value`) or as a regex on paths.
        rank: rank of every adapter. The result is exact, up to float32, where ΔW has no
            higher rank.
        others: the model that the other leaves are taken from (biases, norms, matrices
            that are no target). No adapter file can hold those of "tuned". The head is
            always the tuned model's, because every method trains it.

    Raises:
        ValueError: the models have different leaves, the pattern matches nothing, the
            rank is larger than a side of a target matrix, or `others` is unknown.
    """
    if others not in ("base", "tuned"):
        raise ValueError(f"others: expected base or tuned, got {others!r}")
    # Shapes first, so that an error comes before the long decomposition.
    layers = target_layers(base, targets)
    _check_rank(layers, rank)
    deltas = decompose(base, tuned, targets)

    start = tree.replace(tuned, _base_leaves(base, layers, others))
    # A target's wrapped layer has the other leaves of `start`, such as its bias.
    nodes = tree.nodes(start)
    adapters = {}
    for path, delta in deltas.items():
        adapters[path] = adapter(nodes[path], delta, rank)
    return tree.replace(start, adapters)


def _base_leaves(
    base: Any,
    layers: Mapping[str, Any],
    others: str,
) -> dict[str, Any]:
    """Return the leaves that the base model has in the result, by path."""
    # The difference of these is what the adapters hold.
    matrices = set()
    for path, layer in layers.items():
        matrices.add(f"{path}/{matrix_name(layer)}")

    leaves = {}
    for path, leaf in tree.leaves(base).items():
        # The head is trained with every method, so it is the tuned model's.
        is_head = re.search(HEAD, path) is not None
        is_other = others == "base" and not is_head
        if path in matrices or is_other:
            leaves[path] = leaf
    return leaves


def decompose(base: Any, tuned: Any, targets: str) -> dict[str, SVD]:
    """Return the SVD of tuned - base of each target matrix, by the path of its layer.

    Raises:
        ValueError: the models have different leaves, or the pattern matches nothing.
    """
    # Before the pattern, which may select other layers of an unlike model.
    _check_alike(base, tuned)
    tuned_layers = target_layers(tuned, targets)
    deltas = {}
    for path, layer in target_layers(base, targets).items():
        # [i, o], or [L, i, o] of a stack
        before = _matrix(layer)
        after = _matrix(tuned_layers[path])
        deltas[path] = _delta_svd(before, after)
    return deltas


def adapter(layer: Any, delta: SVD, rank: int) -> LoRA:
    """Return the layer with the first `rank` directions of `delta` as its LoRA.

    A rank of 0 adds nothing.
    """
    u = delta.u[..., :rank]
    vt = delta.vt[..., :rank, :]
    # Both factors get the root of each singular value, so that neither is the larger.
    root = jnp.sqrt(delta.s[..., :rank])
    a = u * root[..., None, :]
    b = root[..., None] * vt
    scale = jnp.ones_like(root)
    # An embedding looks up rows of A.
    if matrix_name(layer) == "embedding":
        return LoRAEmbedding(layer, a, b, scale)
    return LoRA(layer, a, b, scale)


@jax.jit
def _delta_svd(
    before: Float[Array, "... i o"],
    after: Float[Array, "... i o"],
) -> SVD:
    # Subtracted in float32, whatever the models are stored in.
    before = before.astype(jnp.float32)
    after = after.astype(jnp.float32)
    # Only the directions that a matrix [i, o] can have: k = min(i, o).
    delta = after - before
    u, s, vt = jnp.linalg.svd(delta, full_matrices=False)
    return SVD(u, s, vt)


def _matrix(layer: Any) -> Float[Array, "... i o"]:
    name = matrix_name(layer)
    return getattr(layer, name)[...]


def _check_rank(layers: Mapping[str, Any], rank: int) -> None:
    wrong = []
    for path, layer in layers.items():
        name = matrix_name(layer)
        matrix = getattr(layer, name)
        *_, i, o = matrix.shape  # perhaps with a layer axis
        limit = min(i, o)
        if not 1 <= rank <= limit:
            wrong.append(f"{path} ({i} x {o})")
    if wrong:
        matrices = ", ".join(wrong)
        raise ValueError(
            f"rank: expected 1 <= rank <= min(i, o), got {rank} for {matrices}"
        )


def _check_alike(base: Any, tuned: Any) -> None:
    """Raise a ValueError unless the two models have leaves of the same shapes."""
    base_shapes = _shapes(base)
    tuned_shapes = _shapes(tuned)
    differences = []
    # All differences are collected, and the first of them named.
    for path in base_shapes | tuned_shapes:
        base_shape = base_shapes.get(path, "none")
        tuned_shape = tuned_shapes.get(path, "none")
        if base_shape != tuned_shape:
            difference = f"{path}: {base_shape} and {tuned_shape}"
            differences.append(difference)
    if not differences:
        return
    text = "; ".join(differences[:DIFFERENCES_NAMED])
    count = len(differences)
    if count > DIFFERENCES_NAMED:
        text += f"; … ({count} in all)"
    raise ValueError(
        "base and tuned: expected leaves alike (merge adapters first), got " + text
    )


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for path, leaf in tree.leaves(model).items():
        shapes[path] = leaf.shape
    return shapes
