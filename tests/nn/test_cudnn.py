"""cuDNN's attention against the plain one, where there is a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax.nn.attend import attend
from lora_jax.nn.engine import Engine
from lora_jax.nn.visibility import Visibility

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="cuDNN needs a GPU"
)

CUDNN = Engine(attention="cudnn", activations="bfloat16")
PLAIN = Engine(attention="plain")
# bfloat16 has 8 bits: what is of the size of 1 is rounded by up to 2^-9, and a sum of
# such numbers by a few times that.
TOLERANCE = 2**-7
CASES = {
    "all tokens": Visibility(),
    "causal": Visibility(first_query=0),
    "padded": Visibility(stop=jnp.array([128, 65, 1])),
    "causal and padded": Visibility(stop=jnp.array([128, 65, 1]), first_query=0),
}


def tensors(heads_of_keys):
    shapes = [(3, 4, 128, 64), *[(3, heads_of_keys, 128, 64)] * 2]
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = []
    for key, shape in zip(keys, shapes, strict=True):
        drawn.append(jax.random.normal(key, shape, jnp.bfloat16))
    return drawn


def results(visibility, engine, arrays):
    """Attention [B, T, D], and its gradients by query, key and value."""

    def total(query, key, value):
        mixed = attend(query, key, value, visibility, engine).astype(jnp.float32)
        # Tokens of padding are read by nobody.
        stop = visibility.stop if visibility.stop is not None else jnp.full(3, 128)
        is_text = jnp.arange(128) < stop[:, None]  # [B, T]
        weights = jnp.cos(jnp.arange(mixed.size)).reshape(mixed.shape)
        read = jnp.where(is_text[..., None], mixed, 0)
        return (read * weights).sum(), read

    function = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
    (_, mixed), gradients = function(*arrays)
    return [np.asarray(array, np.float32) for array in (mixed, *gradients)]


@pytest.mark.parametrize("heads_of_keys", [4, 1], ids=["all heads", "grouped"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_plain_attention_in_float32(case, heads_of_keys):
    arrays = tensors(heads_of_keys)
    wide = [array.astype(jnp.float32) for array in arrays]
    expected = results(CASES[case], PLAIN, wide)
    narrow = results(CASES[case], CUDNN, arrays)
    for rounded, exact in zip(narrow, expected, strict=True):
        difference = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
        assert difference < TOLERANCE
