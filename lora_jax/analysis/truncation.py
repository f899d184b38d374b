"""What a trained model keeps when each ΔW is truncated to its top k directions.

Everything else (head, biases, norms, embeddings) keeps its trained value. The LoRA
paper supposes that ΔW has a low intrinsic rank (sections 1 and 4.1), trains at low
rank and truncates nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lora_jax import methods, tree
from lora_jax.analysis.spectrum import delta_svd, effective_rank, energy
from lora_jax.methods.lora_from_delta import SVD, adapter, decompose

BLOCKS = "^blocks/"
"""Full fine-tuning's matrices that are truncated: all of the blocks."""


def full_rank(base: Any) -> int:
    """Return the most directions that full fine-tuning's ΔW of a matrix can have."""
    ranks = []
    for layer in methods.targets(base, BLOCKS).values():
        # The smaller side of a kernel [L, i, o].
        ranks.append(min(layer.kernel.shape[-2:]))
    return max(ranks)


def kept_directions(ks: Sequence[int], rank: int) -> list[int]:
    """Return the k below the rank of a ΔW in order, each once, and the rank itself.

    Raises:
        ValueError: lists the numbers of directions below 0.
    """
    negative = [str(k) for k in ks if k < 0]
    if negative:
        raise ValueError(f"ks: expected whole numbers >= 0, got {', '.join(negative)}")
    # All directions are always among them, to compare with.
    kept = {rank}
    for k in ks:
        if k < rank:
            kept.add(k)
    return sorted(kept)


class TrainedDeltas(NamedTuple):
    """A trained model taken apart.

    `model` has the pretrained weights in its matrices and all else as trained;
    `deltas` has the SVD of each ΔW by path.
    """

    model: Any
    deltas: dict[str, SVD]


def take_deltas(model: Any, base: Any) -> TrainedDeltas:
    """Take the ΔW out of a trained model.

    They are those of its adapters. A model without adapters was trained in full: its
    ΔW are the differences of the blocks' matrices from those of `base`.

    Raises:
        ValueError: a model without adapters whose tree is not that of `base`.
    """
    adapters = methods.adapters(model)
    if adapters:
        return _take_from_adapters(model, adapters)
    # Full fine-tuning has no adapters: W - W0 of every matrix.
    deltas = decompose(base, model, BLOCKS)
    layers = tree.nodes(base)
    kernels = {}
    for path in deltas:
        kernels[f"{path}/kernel"] = layers[path].kernel[...]
    # The trained model, with W0 in the matrices that were decomposed.
    return TrainedDeltas(tree.replace(model, kernels), deltas)


def _take_from_adapters(
    model: Any,
    adapters: dict[str, Any],
) -> TrainedDeltas:
    deltas = {}
    for path, layer in adapters.items():
        # Idle adapters have no directions.
        if not layer.parameters():
            continue
        # With LoRA's scale in them.
        a, b = layer.factors()
        u, s, vt = delta_svd(a, b)
        deltas[path] = SVD(u, s, vt)
    return TrainedDeltas(methods.unload(model), deltas)


def truncate(trained: TrainedDeltas, k: int) -> Any:
    """Return the model with the top k directions of each ΔW, as LoRA of rank k."""
    # Plain layers: what the LoRA wraps.
    layers = tree.nodes(trained.model)
    truncated = {}
    for path, delta in trained.deltas.items():
        truncated[path] = adapter(layers[path], delta, k)
    return tree.replace(trained.model, truncated)


def truncation_loss(
    spectra: Sequence[Float[np.ndarray, "L r"]],
    k: int,
) -> dict[str, float]:
    """Return what truncation to k takes away, from the singular values of each matrix.

    `delta/relative_error` is ||ΔW - ΔW_k|| / ||ΔW|| in the Frobenius norm, over all
    matrices together. `delta/energy` is the share of ||ΔW||² that is kept, and
    `delta/effective_rank` that of the untruncated ΔW; both are means over matrices.

    Raises:
        ValueError: every ΔW is zero.
    """
    # ||ΔW||² over all matrices, and what of it is cut off.
    total = _squared_norm(spectra, start=0)
    if not total:
        raise ValueError(
            "expected a training that changes its matrices; ΔW is zero: "
            "is the learning rate too low?"
        )
    truncated = _squared_norm(spectra, start=k)
    energies, ranks = [], []
    for s in spectra:
        # One number for each layer: [L].
        energies.append(_energy(s, k))
        ranks.append(effective_rank(s))
    return {
        "delta/relative_error": (truncated / total) ** 0.5,
        "delta/energy": _mean(energies),
        "delta/effective_rank": _mean(ranks),
    }


def _squared_norm(
    spectra: Sequence[np.ndarray],
    start: int,
) -> float:
    """||ΔW||² without the top `start` directions, over all matrices."""
    norms = []
    for s in spectra:
        # ||ΔW||² is the sum of squared singular values.
        squares = s[..., start:] ** 2
        norms.append(float(squares.sum()))
    return sum(norms)


def _energy(
    s: Float[np.ndarray, "L r"],
    k: int,
) -> Any:
    """The share of ||ΔW||² in the top k directions, of each layer."""
    if k == 0:
        return np.zeros(s.shape[:-1])
    # A matrix may have fewer directions than k.
    last = min(k, s.shape[-1]) - 1
    return energy(s)[..., last]


def _mean(by_matrix: Sequence[Any]) -> float:
    """The mean over matrices and their layers."""
    # Matrices may differ in their layers.
    flat = []
    for values in by_matrix:
        flat.append(np.ravel(values))
    return float(np.mean(np.concatenate(flat)))
