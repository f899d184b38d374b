"""BitFit: only bias vectors learn (Zaken et al. 2021, arXiv 2106.10199; a baseline of LoRA's Tables 2, 4 and 15)."""

import re

from lora_jax import tree
from lora_jax.methods.base import Method

BIASES = r"(^|/)bias$"


def bitfit() -> Method:
    """Every bias of the model learns, those of the norms too. Raises ValueError, from `adapt`, if it has none, as Llama."""

    def adapt(key, model):
        if not any(re.search(BIASES, path) for path in tree.leaves(model)):
            raise ValueError(
                "bitfit: expected a model with biases, got one without any"
            )
        return model

    return Method("bitfit", adapt, BIASES)
