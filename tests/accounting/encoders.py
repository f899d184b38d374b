"""Abstract encoders for the tests of memory, split into trainable and frozen."""

from typing import Any

import jax

from lora_jax import methods
from lora_jax.accounting.step_memory import split_shapes
from lora_jax.models import bert

ALL = "query,key,value,output,up,down"
METHODS = {
    "full": methods.full(),
    "bitfit": methods.bitfit(),
    "query": methods.lora("query", 2),
    "query,value": methods.lora("query,value", 4),
    "output": methods.lora("output", 2),
    ALL: methods.lora(ALL, 2),
}


def encoder_config(layers: int = 2, **changes: Any) -> bert.Config:
    """Return the config of an encoder of width 64, with these changes."""
    sizes: dict[str, Any] = {
        "kind": "bert",
        "layers": layers,
        "width": 64,
        "heads": 4,
        "ffn": 256,
        "vocabulary": 500,
        "max_positions": 64,
        "segments": 2,
        "epsilon": 1e-6,
        "activation": "gelu",
        "pad": 0,
    }
    return bert.Config(**sizes | changes)


def split_encoder(
    method: methods.Method, compute_dtype: str = "float32", **changes: Any
) -> tuple[Any, Any]:
    """Return the trainable and the frozen leaves of an adapted encoder, as shapes."""
    config = encoder_config(**changes)

    def init(key: Any) -> bert.Encoder:
        return bert.init(key, config, labels=2)

    model = jax.eval_shape(init, jax.random.key(0))
    return split_shapes(model, method, compute_dtype)
