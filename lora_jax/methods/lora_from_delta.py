"""A LoRA adapter out of a model that was fine-tuned whole: the best approximation of rank r of what its matrices learnt.

Of all matrices of rank r, the top r singular directions of ΔW = W - W0 leave the least Frobenius error: the root of the sum of the
other singular values squared (Eckart and Young 1936). It is zero if ΔW has no more directions.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lora_jax import tree
from lora_jax.methods.base import HEAD
from lora_jax.methods.base import targets as layers_of
from lora_jax.methods.lora import LoRA, LoRAEmbedding


class SVD(NamedTuple):
    """ΔW = u diag(s) vt as a kernel [i, o], s falling; with the layer axis in front where layers are stacked."""

    u: Float[Array, "... i k"]
    s: Float[Array, "... k"]
    vt: Float[Array, "... k o"]


def lora_from_delta(
    base: Any,
    tuned: Any,
    *,
    targets: str = "query,value",
    rank: int = 8,
    rest: str = "base",
) -> Any:
    """`base` with LoRA layers (A = u sqrt(s), B = sqrt(s) vt, scale 1) that turn the target matrices into those of `tuned`.

    Args:
        base, tuned: plain models alike in shape, before and after the fine-tuning; adapters are merged first.
        targets: layer names (`query,value`) or a regex on paths, as for `lora`.
        rank: of every adapter. The approximation is exact, up to float32, where ΔW has no higher rank.
        rest: whose the other leaves are (biases, norms, matrices that are no target): "base", or "tuned", which no adapter
            file can hold. The head is always the tuned model's: it learns with every method.

    Raises:
        ValueError: the trees differ (names the first paths that do), a pattern that matches nothing, a rank outside
            1 … min(i, o) of a layer, another `rest`.
    """
    if rest not in ("base", "tuned"):
        raise ValueError(f"rest: expected base or tuned, got {rest!r}")
    layers = layers_of(base, targets)
    if wrong := [
        f"{path} ({i} x {o})"
        for path, (i, o) in _sizes(layers).items()
        if not 1 <= rank <= min(i, o)
    ]:
        raise ValueError(
            f"rank: expected 1 <= rank <= min(i, o), got {rank} for {', '.join(wrong)}"
        )
    parts = decompose(base, tuned, targets)
    matrices = {f"{path}/{_name(layer)}" for path, layer in layers.items()}
    back = {
        path: leaf
        for path, leaf in tree.leaves(base).items()
        if path in matrices or (rest == "base" and not re.search(HEAD, path))
    }
    start = tree.replace(tuned, back)
    return tree.replace(
        start,
        {path: adapter(tree.nodes(start)[path], parts[path], rank) for path in layers},
    )


def decompose(base: Any, tuned: Any, targets: str) -> dict[str, SVD]:
    """The SVD of tuned - base of each target matrix, by the path of its layer.

    Raises:
        ValueError: the trees differ, or a pattern matches nothing.
    """
    _same(base, tuned)
    pairs = zip(
        layers_of(base, targets).items(),
        layers_of(tuned, targets).values(),
        strict=True,
    )
    return {
        path: _svd(getattr(old, _name(old))[...], getattr(new, _name(new))[...])
        for (path, old), new in pairs
    }


def adapter(layer: Any, part: SVD, rank: int) -> LoRA:
    """`layer` with the top `rank` directions of `part` as its LoRA; 0 adds nothing."""
    root = jnp.sqrt(part.s[..., :rank])
    a, b = (
        part.u[..., :rank] * root[..., None, :],
        root[..., None] * part.vt[..., :rank, :],
    )
    return (LoRA if hasattr(layer, "kernel") else LoRAEmbedding)(
        layer, a, b, jnp.ones_like(root)
    )


@jax.jit
def _svd(old: Float[Array, "... i o"], new: Float[Array, "... i o"]) -> SVD:
    delta = new.astype(jnp.float32) - old.astype(jnp.float32)
    return SVD(*jnp.linalg.svd(delta, full_matrices=False))


def _name(layer: Any) -> str:
    return "kernel" if hasattr(layer, "kernel") else "embedding"


def _sizes(layers: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {
        path: getattr(layer, _name(layer)).shape[-2:] for path, layer in layers.items()
    }


def _same(base: Any, tuned: Any) -> None:
    ours, theirs = (
        {path: leaf.shape for path, leaf in tree.leaves(each).items()}
        for each in (base, tuned)
    )
    differ = [path for path in ours | theirs if ours.get(path) != theirs.get(path)]
    if differ:
        said = "; ".join(
            f"{path}: {ours.get(path, 'none')} and {theirs.get(path, 'none')}"
            for path in differ[:5]
        )
        more = f"; … ({len(differ)} in all)" if len(differ) > 5 else ""
        raise ValueError(
            f"base and tuned: expected leaves alike (merge adapters first), got {said}{more}"
        )
