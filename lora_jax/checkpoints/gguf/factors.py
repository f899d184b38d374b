"""What each rotary frequency is divided by: Llama 3.1's scaling, in a tensor."""

import numpy as np

from lora_jax.checkpoints.gguf.file import File

FACTORS = "rope_freqs.weight"


def read_factors(file: File) -> list[float]:
    """Return the factors, [head_dim / 2]; none where the file has no such tensor.

    Raises:
        ValueError: they are no vector of floats, or frequencies cannot be divided by
            them.
    """
    tensor = file.tensors.get(FACTORS)
    if tensor is None:
        return []
    if len(tensor.shape) != 1:
        raise ValueError(f"{FACTORS}: expected a vector, got the shape {tensor.shape}")
    # A few dozen numbers; only matrices are quantized.
    factors = tensor.read()
    bad = factors[~(np.isfinite(factors) & (factors > 0))]
    if bad.size:
        raise ValueError(f"{FACTORS}: expected finite numbers above 0, got {bad[0]}")
    return factors.tolist()
