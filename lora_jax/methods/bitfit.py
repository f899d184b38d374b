"""BitFit: only the bias vectors are trained.

After Zaken et al. 2021 (arXiv 2106.10199). It is a baseline of LoRA's Tables 2, 4 and 15.
"""

import re

from lora_jax import tree
from lora_jax.methods.base import Method

# Biases of linear layers and of norms alike.
BIASES = r"(^|/)bias$"


def bitfit() -> Method:
    """Return the method that trains every bias of the model, those of norms included.

    Raises:
        ValueError: from `adapt`: the model has no biases. Llama has none.
    """

    def adapt(key, model):
        has_bias = any(re.search(BIASES, path) for path in tree.leaves(model))
        if not has_bias:
            raise ValueError(
                "bitfit: expected a model with biases, got one without any"
            )
        # Nothing is added: the biases of the pretrained model itself are trained.
        return model

    return Method("bitfit", adapt, trainable=BIASES)
