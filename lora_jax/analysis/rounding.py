"""What rounding to few bits changes: merged matrices, stored adapters, predictions.

An adapter that was trained beside 4-bit weights W4 can be merged in several ways, and
its own matrices can be stored in few bits. QLoRA (Dettmers et al. 2023, arXiv
2305.14314) publishes numbers for neither.
"""

from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from lora_jax import methods, quant, tree


def merge_errors(model: Any, merged: Any) -> dict[str, dict[str, list[float]]]:
    """Compare what was merged with W4 + ΔW, by adapted matrix, a number a layer.

    `distance` is that of the merged matrix from W4 + ΔW, over ||ΔW||. `kept` is the
    share of ΔW in it: what the matrix has changed along ΔW, <W' - W4, ΔW> / ||ΔW||²,
    which is 1 for all of it and 0 for none.
    """
    merged_leaves = tree.leaves(quant.dequantize_model(merged))
    errors = {}
    for path, layer in methods.adapters(quant.dequantize_model(model)).items():
        # Idle adapters only make models share a compiled program.
        if not layer.parameters():
            continue
        delta = np.asarray(layer.delta(), np.float64)  # [L, i, o]
        kernel = np.asarray(merged_leaves[f"{path}/kernel"], np.float64)
        change = kernel - np.asarray(layer.base.kernel[...])
        squared_norm = _squares(delta)
        distance = (_squares(change - delta) / squared_norm) ** 0.5
        kept = (change * delta).sum((-2, -1)) / squared_norm
        errors[path] = {"distance": distance.tolist(), "kept": kept.tolist()}
    return errors


def _squares(matrices: Float[np.ndarray, "L i o"]) -> Float[np.ndarray, "L"]:
    return (matrices**2).sum((-2, -1))


def stored_bits(model: Any) -> float:
    """Return the bits stored for each number of the blocks' matrices."""
    kernels = tree.find(model, quant.BODY).values()
    stored = sum(kernel.nbytes for kernel in kernels)
    numbers = sum(kernel.size for kernel in kernels)
    return 8 * stored / numbers


def adapter_error(model: Any, rounded: Any) -> float:
    """Return ||ΔW - ΔW'|| / ||ΔW|| over all adapted matrices of two models."""
    adapters = methods.adapters(model).values()
    rounded_adapters = methods.adapters(rounded).values()
    differences, norms = [], []
    for layer, rounded_layer in zip(adapters, rounded_adapters, strict=True):
        delta = np.asarray(layer.delta(), np.float64)
        rounded_delta = np.asarray(rounded_layer.delta(), np.float64)
        differences.append(((delta - rounded_delta) ** 2).sum())
        norms.append((delta**2).sum())
    return float((sum(differences) / sum(norms)) ** 0.5)


def adapter_file_bits(file: bytes, model: Any) -> float:
    """Return the bits in a safetensors file for each number of A and B.

    Scales are included. Idle adapters are not in the file, and are not counted.
    """
    stored = 0
    for name, array in safetensors.numpy.load(file).items():
        if "/lora_" in name:
            stored += array.nbytes
    numbers = 0
    for layer in methods.adapters(model).values():
        if layer.parameters():
            numbers += layer.lora_a.size + layer.lora_b.size
    return 8 * stored / numbers


def prediction_distance(
    before: Float[np.ndarray, "N C"], after: Float[np.ndarray, "N C"]
) -> float:
    """Return ||after - before|| / ||before - mean||, of the logits of N examples."""
    centered = before - before.mean(0)
    return float(np.linalg.norm(after - before) / np.linalg.norm(centered))


def prediction_change(
    before: Float[np.ndarray, "N C"], after: Float[np.ndarray, "N C"]
) -> dict[str, float]:
    """Return how far logits move.

    `logits/distance` is `prediction_distance`, `logits/largest` the largest change of
    a logit, and `logits/same_class` the share of examples whose class stays.
    """
    same_class = after.argmax(-1) == before.argmax(-1)
    return {
        "logits/distance": prediction_distance(before, after),
        "logits/largest": float(np.abs(after - before).max()),
        "logits/same_class": float(np.mean(same_class)),
    }
