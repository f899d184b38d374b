"""Bottleneck adapters: by hand, against float64, their places and their parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import accounting, methods, train, tree
from lora_jax.methods.bottleneck import Affine, BottleneckAdapter
from lora_jax.models import gpt2
from lora_jax.nn.layers import LayerNorm, Linear

KEY = jax.random.key(0)


def drawn(*shape, seed):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def test_by_hand():
    # 3 -> (3, 7)
    base = Linear(jnp.array([[1.0, 2.0]]), jnp.array([0.0, 1.0]))
    down = Affine(jnp.array([[1.0, -1.0], [1.0, 0.0]]), jnp.array([-4.0, 1.0]))
    up = Affine(jnp.eye(2), jnp.ones(2))
    # (3, 7) -> (10 - 4, -3 + 1) -> (6, 0) -> (7, 1)
    layer = BottleneckAdapter(base, down, up, None, activation="relu")
    assert layer(jnp.array([3.0])).tolist() == [10, 8]
    assert layer.parameters() == 4 + 2 + 4 + 2


# Kernel, bias; down, its bias; up, its bias; the norm's scale and bias.
SHAPES = [(5, 8), (8,), (8, 3), (3,), (3, 8), (8,), (8,), (8,)]


def normalized(y, scale, shift):
    deviation = np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return (y - y.mean(-1, keepdims=True)) / deviation * scale + shift


def relu(z):
    return np.maximum(z, 0)


def silu(z):
    return z / (1 + np.exp(-z))


@pytest.mark.parametrize(
    ("with_norm", "activation"), [(True, relu), (False, silu)], ids=["relu", "silu"]
)
def test_against_float64(with_norm, activation):
    arrays = [drawn(*shape, seed=seed) for seed, shape in enumerate(SHAPES)]
    norm = LayerNorm(*arrays[6:], epsilon=1e-5) if with_norm else None
    layer = BottleneckAdapter(
        Linear(*arrays[:2]),
        Affine(*arrays[2:4]),
        Affine(*arrays[4:6]),
        norm,
        activation=activation.__name__,
    )
    x = drawn(4, 5, seed=9)
    output = layer(x)

    arrays = [np.asarray(array, np.float64) for array in arrays]
    kernel, bias, down, down_bias, up, up_bias, scale, shift = arrays
    y = np.asarray(x, np.float64) @ kernel + bias
    bottleneck_input = normalized(y, scale, shift) if with_norm else y
    hidden = activation(bottleneck_input @ down + down_bias)
    expected = y + hidden @ up + up_bias
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "places", "activation", "with_norm"),
    [
        (
            methods.adapter_h(3),
            ["blocks/attention/output", "blocks/mlp/down"],
            "silu",
            False,
        ),
        (methods.adapter_l(3), ["blocks/mlp/down"], "relu", True),
    ],
    ids=["h", "l"],
)
def test_where_they_are_and_what_is_in_them(
    method, places, activation, with_norm, tiny
):
    model = method.adapt(KEY, tiny())
    layers = methods.adapters(model)
    assert list(layers) == places
    for layer in layers.values():
        assert layer.activation == activation
        assert (layer.adapter_norm is not None) == with_norm
        assert layer.adapter_down.matrix.shape == (2, 16, 3)
        # It starts at the pretrained model.
        assert not layer.adapter_up.matrix[...].any()

    trainable, _ = tree.split(model, methods.mask(model, method, head=False))
    assert all("/adapter_" in path for path in tree.leaves(trainable))
    decayed = set()
    for path, is_decayed in tree.leaves(train.decay_mask(trainable)).items():
        if is_decayed:
            decayed.add(path)
    matrices = set()
    for place in places:
        matrices.add(f"{place}/adapter_down/matrix")
        matrices.add(f"{place}/adapter_up/matrix")
    assert decayed == matrices


# Ranks of Table 3's Adapter^L, 0.37 M and 11.09 M at GPT-2 medium.
@pytest.mark.parametrize("rank", [6, 224])
@pytest.mark.parametrize("name", ["gpt2-medium", "gpt2-large"])
def test_parameters_are_the_closed_form_s(name, rank):
    config = gpt2.Config(
        *accounting.ARCHITECTURES[name][2:8], epsilon=1e-5, activation="gelu_new"
    )
    model = jax.eval_shape(partial(gpt2.init, config=config), KEY)
    formulas = {
        "adapter_h": accounting.Adapter(rank),
        "adapter_l": accounting.Adapter(rank, per_block=1, norms=1),
    }
    for kind, formula in formulas.items():
        method = methods.make(kind, bottleneck=rank)
        adapted = jax.eval_shape(method.adapt, KEY, model)
        count = methods.counts(adapted, method)
        assert count == (accounting.trainable_parameters(formula, name), 0)


@pytest.mark.parametrize("make", [methods.adapter_h, methods.adapter_l])
def test_settings_and_models_that_do_not_fit_are_refused(make, tiny):
    text = r"bottleneck: expected an integer >= 1, got 0$"
    with pytest.raises(ValueError, match=text):
        make(0)
    text = r"adapter_[hl]: '\w+/\w+' matches no layer; there are: "
    with pytest.raises(ValueError, match=text + ".*up"):
        make().adapt(KEY, tiny().blocks.mlp)
    # A layer that is adapted already is none to adapt.
    adapted = make().adapt(KEY, tiny())
    with pytest.raises(ValueError, match=text):
        make().adapt(KEY, adapted)
