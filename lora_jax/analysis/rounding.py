"""What rounding to few bits changes: merged matrices, stored adapters, predictions.

An adapter that was trained beside 4-bit weights W4 can be merged in several ways, and
its own matrices can be stored in few bits. QLoRA (Dettmers et al. 2023, arXiv
2305.14314) publishes numbers for neither.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from lora_jax import methods, quant, tree


def merge_errors(
    model: Any,
    merged: Any,
) -> dict[str, dict[str, list[float]]]:
    """Compare what was merged with W4 + ΔW, by adapted matrix, a number a layer.

    `distance` is that of the merged matrix from W4 + ΔW, over ||ΔW||. `kept` is the
    share of ΔW in it: what the matrix has changed along ΔW, <W' - W4, ΔW> / ||ΔW||²,
    which is 1 for all of it and 0 for none.
    """
    adapters = methods.adapters(quant.dequantize_model(model))
    merged_leaves = tree.leaves(quant.dequantize_model(merged))
    errors = {}
    for path, layer in adapters.items():
        # Idle adapters only make models share a compiled program.
        if not layer.parameters():
            continue
        kernel = merged_leaves[f"{path}/kernel"]
        errors[path] = _merge_error(layer, kernel)
    return errors


def mean_merge_errors(
    errors: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, float]:
    """Average the errors of `merge_errors` over matrices and layers, by their name."""
    means = {}
    for name in ("distance", "kept"):
        # [matrices, L]
        values = [by_name[name] for by_name in errors.values()]
        means[name] = float(np.mean(values))
    return means


def _merge_error(
    layer: Any,
    merged_kernel: Any,
) -> dict[str, list[float]]:
    """The errors of one matrix, from its adapter and the merged kernel [L, i, o]."""
    delta = np.asarray(layer.delta(), np.float64)
    base = np.asarray(layer.base.kernel[...])
    change = np.asarray(merged_kernel, np.float64) - base
    # One number for each layer: [L].
    norm = _sum_matrices(delta**2)
    rounding = _sum_matrices((change - delta) ** 2)
    along = _sum_matrices(change * delta)
    distance = (rounding / norm) ** 0.5
    kept = along / norm
    return {
        "distance": distance.tolist(),
        "kept": kept.tolist(),
    }


def _sum_matrices(
    matrices: Float[np.ndarray, "L i o"],
) -> Float[np.ndarray, " L"]:
    return matrices.sum((-2, -1))


def stored_bits(model: Any) -> float:
    """Return the bits stored for each number of the blocks' matrices."""
    stored = numbers = 0
    for kernel in tree.find(model, quant.BODY).values():
        # Of a quantized matrix: codes and scales, and the numbers they stand for.
        stored += kernel.nbytes
        numbers += kernel.size
    return 8 * stored / numbers


def adapter_error(
    model: Any,
    rounded: Any,
) -> float:
    """Return ||ΔW - ΔW'|| / ||ΔW|| over all adapted matrices of two models."""
    layers = methods.adapters(model).values()
    rounded_layers = methods.adapters(rounded).values()
    # Squares over all matrices, of the difference and of ΔW.
    difference = norm = 0.0
    for layer, rounded_layer in zip(layers, rounded_layers, strict=True):
        # float64, so that the sums add no rounding of their own.
        delta = np.asarray(layer.delta(), np.float64)
        rounded_delta = np.asarray(rounded_layer.delta(), np.float64)
        difference += ((delta - rounded_delta) ** 2).sum()
        norm += (delta**2).sum()
    return float((difference / norm) ** 0.5)


def adapter_file_bits(
    file: bytes,
    model: Any,
) -> float:
    """Return the bits in a safetensors file for each number of A and B.

    Scales are included. Idle adapters are not in the file, and are not counted.
    """
    # Bytes of codes and scales.
    stored = 0
    for name, array in safetensors.numpy.load(file).items():
        # A and B; the file also has the head.
        if "/lora_" in name:
            stored += array.nbytes
    numbers = 0
    for layer in methods.adapters(model).values():
        if layer.parameters():
            numbers += layer.lora_a.size
            numbers += layer.lora_b.size
    return 8 * stored / numbers


def prediction_distance(
    before: Float[np.ndarray, "N C"],
    after: Float[np.ndarray, "N C"],
) -> float:
    """Return ||after - before|| / ||before - mean||, of the logits of N examples."""
    change = np.linalg.norm(after - before)
    # The spread over examples; a constant that all logits share says nothing.
    spread = np.linalg.norm(before - before.mean(0))
    return float(change / spread)


def prediction_change(
    before: Float[np.ndarray, "N C"],
    after: Float[np.ndarray, "N C"],
) -> dict[str, float]:
    """Return how far logits move.

    `logits/distance` is `prediction_distance`, `logits/largest` the largest change of
    a logit, and `logits/same_class` the share of examples whose class stays.
    """
    # In units of the logits, not of their spread.
    largest = np.abs(after - before).max()
    # [N]
    same_class = after.argmax(-1) == before.argmax(-1)
    return {
        "logits/distance": prediction_distance(before, after),
        "logits/largest": float(largest),
        "logits/same_class": float(np.mean(same_class)),
    }
