"""Nothing is adapted: the task's own head is trained on the frozen model.

Every method trains the head too, so this baseline is what an adapter has to beat.
"""

import re

from lora_jax import tree
from lora_jax.methods.base import HEAD, Method


def head() -> Method:
    """Return the method that trains the task's head alone.

    Raises:
        ValueError: from `adapt`: the model has no such head. Language models have none.
    """

    def adapt(key, model):
        has_head = any(re.search(HEAD, path) for path in tree.leaves(model))
        if not has_head:
            raise ValueError(
                "head: expected a model with a head for labels, as encoders have, got "
                f"{type(model).__name__}"
            )
        # The head is part of the model: nothing is added.
        return model

    return Method("head", adapt, trainable=HEAD)
