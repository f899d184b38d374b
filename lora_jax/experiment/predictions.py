"""What a classifier predicts, where a small change of its weights is to be measured."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lora_jax import metrics
from lora_jax.experiment.workbench import Workbench


class Predictions(NamedTuple):
    """A model's logits on the split to be scored, and their scores by metric."""

    logits: Float[np.ndarray, "N C"]
    scores: dict[str, float]


def predict(bench: Workbench, model: Any) -> Predictions:
    """Predict the bench's test split in float32, and score it.

    The split is validation where the data has no test.
    """
    split = bench.test_split
    # In bfloat16 the products would round more than what is to be measured.
    logits = bench.predict(model, split, compute="float32")
    # [N], in the order of the logits.
    labels = bench.encoded[split].label
    scores = metrics.score(bench.task.metrics, logits, labels)
    return Predictions(logits, scores)
