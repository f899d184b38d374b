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
    if adapters := methods.adapters(model):
        deltas = {}
        for path, layer in adapters.items():
            # Idle adapters have no directions.
            if layer.parameters():
                deltas[path] = SVD(*delta_svd(*layer.factors()))
        return TrainedDeltas(methods.unload(model), deltas)
    deltas = decompose(base, model, BLOCKS)
    layers = tree.nodes(base)
    kernels = {f"{path}/kernel": layers[path].kernel[...] for path in deltas}
    return TrainedDeltas(tree.replace(model, kernels), deltas)


def truncate(trained: TrainedDeltas, k: int) -> Any:
    """Return the model with the top k directions of each ΔW, as LoRA of rank k."""
    layers = tree.nodes(trained.model)
    truncated = {}
    for path, delta in trained.deltas.items():
        truncated[path] = adapter(layers[path], delta, k)
    return tree.replace(trained.model, truncated)


def truncation_loss(
    spectra: Sequence[Float[np.ndarray, "L r"]], k: int
) -> dict[str, float]:
    """Return what truncation to k takes away, from the singular values of each matrix.

    `delta/relative_error` is ||ΔW - ΔW_k|| / ||ΔW|| in the Frobenius norm, over all
    matrices together. `delta/energy` is the share of ||ΔW||² that is kept, and
    `delta/effective_rank` that of the untruncated ΔW; both are means over matrices.

    Raises:
        ValueError: every ΔW is zero.
    """
    total = _squared_norm(spectra, start=0)
    if not total:
        raise ValueError(
            "expected a training that changes its matrices; ΔW is zero: "
            "is the learning rate too low?"
        )
    energies = [_energy(s, k) for s in spectra]
    ranks = [effective_rank(s) for s in spectra]
    return {
        "delta/relative_error": (_squared_norm(spectra, start=k) / total) ** 0.5,
        "delta/energy": _mean(energies),
        "delta/effective_rank": _mean(ranks),
    }


def _squared_norm(spectra: Sequence[np.ndarray], start: int) -> float:
    """||ΔW||² without the top `start` directions, over all matrices."""
    return sum(float((s[..., start:] ** 2).sum()) for s in spectra)


def _energy(s: Float[np.ndarray, "L r"], k: int) -> Any:
    """The share of ||ΔW||² in the top k directions, of each layer."""
    if k == 0:
        return np.zeros(s.shape[:-1])
    last = min(k, s.shape[-1]) - 1
    return energy(s)[..., last]


def _mean(by_matrix: Sequence[Any]) -> float:
    return float(np.mean(np.concatenate([np.ravel(values) for values in by_matrix])))
