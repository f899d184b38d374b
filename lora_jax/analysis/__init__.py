"""What an adapter has learned: subspaces, spectra, amplification, truncation, rounding.

Every function takes arrays or models and returns numbers.
"""

from lora_jax.analysis.amplification import (
    Parts,
    amplification,
    figure8_similarity,
    kernel_similarity,
    layer_amplification,
    metrics_by_layer,
)
from lora_jax.analysis.rounding import (
    adapter_error,
    adapter_file_bits,
    mean_merge_errors,
    merge_errors,
    prediction_change,
    prediction_distance,
    stored_bits,
)
from lora_jax.analysis.spectrum import delta_svd, effective_rank, energy, spectrum
from lora_jax.analysis.subspaces import (
    directions,
    factor_columns,
    layer_similarities,
    low_rank_layers,
    principal_angles,
    random_columns,
    shared_directions,
    similarity_metrics,
    subspace_similarity,
)
from lora_jax.analysis.truncation import (
    full_rank,
    kept_directions,
    take_deltas,
    truncate,
    truncation_loss,
)

__all__ = [
    "Parts",
    "adapter_error",
    "adapter_file_bits",
    "amplification",
    "delta_svd",
    "directions",
    "effective_rank",
    "energy",
    "factor_columns",
    "figure8_similarity",
    "full_rank",
    "kept_directions",
    "kernel_similarity",
    "layer_amplification",
    "layer_similarities",
    "low_rank_layers",
    "mean_merge_errors",
    "merge_errors",
    "metrics_by_layer",
    "prediction_change",
    "prediction_distance",
    "principal_angles",
    "random_columns",
    "shared_directions",
    "similarity_metrics",
    "spectrum",
    "stored_bits",
    "subspace_similarity",
    "take_deltas",
    "truncate",
    "truncation_loss",
]
