"""Double quantization: how scales are looked up (its bits: tests/parity)."""

import jax.numpy as jnp
import numpy as np

from lora_jax.quant.formats import DYNAMIC
from lora_jax.quant.scales import look_up, look_up_by_product


def test_both_ways_to_look_up_return_the_same_bits():
    codes = jnp.arange(256, dtype=jnp.uint8).reshape(2, 128)
    by_product = np.asarray(look_up_by_product(codes))
    assert by_product.tobytes() == np.asarray(look_up(codes)).tobytes()
    assert by_product.reshape(-1).tolist() == DYNAMIC.tolist()
