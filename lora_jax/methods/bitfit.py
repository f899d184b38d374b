"""BitFit: only bias vectors learn (Zaken et al. 2021, arXiv 2106.10199; a baseline of LoRA's Tables 2, 4 and 15)."""

from lora_jax.methods.base import Method


def bitfit() -> Method:
    """Every bias of the model learns, those of the norms too."""
    return Method("bitfit", lambda key, model: model, r"(^|/)bias$")
