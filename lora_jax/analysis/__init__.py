"""What an adapter learned: subspaces, spectra, amplification."""

from lora_jax.analysis.subspaces import (
    amplification,
    delta_svd,
    directions,
    effective_rank,
    energy,
    principal_angles,
    spectrum,
    subspace_similarity,
)

__all__ = [
    "amplification",
    "delta_svd",
    "directions",
    "effective_rank",
    "energy",
    "principal_angles",
    "spectrum",
    "subspace_similarity",
]
