"""How a run is trained."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are a laptop's; the papers' are in the presets."""

    learning_rate: float = 1e-3
    """Highest learning rate. It rises linearly during the warm-up, then falls linearly
    to 0."""
    epochs: int = 3
    """Passes over the training rows. The epoch with the best validation score is
    kept."""
    batch: int = 32
    """Rows in a step."""
    accumulate: int = 1
    """Micro-batches in a step, to save memory. Divides the batch."""
    weight_decay: float = 0.01
    """AdamW's decay of matrices. Biases and norms are not decayed."""
    warmup: float = 0.06
    """Share of the steps in which the learning rate rises."""
    clip: float = 1.0
    """Global norm that the trainable gradient is clipped to. 0 does not clip."""
    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over all classes."""
    hidden_dropout: float = 0.0
    """Dropout at the pretrained model's own dropout places."""
    offload: bool = False
    """Keep Adam's moments in host memory between updates, on a GPU or TPU. QLoRA's
    paged optimizer is for the same."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Dtype of matrix products. auto is bfloat16 where the machine has such products,
    else float32."""
