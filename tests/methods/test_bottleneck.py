"""Adapter layers against numbers worked by hand and numpy in float64; where they are, and how many parameters they have."""

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
    base = Linear(jnp.array([[1.0, 2.0]]), jnp.array([0.0, 1.0]))  # 3 -> (3, 7)
    down, up = (
        Affine(jnp.array([[1.0, -1.0], [1.0, 0.0]]), jnp.array([-4.0, 1.0])),
        Affine(jnp.eye(2), jnp.ones(2)),
    )
    layer = BottleneckAdapter(
        base, down, up, None, activation="relu"
    )  # (3, 7) -> (10 - 4, -3 + 1) -> (6, 0) -> (7, 1)
    assert layer(jnp.array([3.0])).tolist() == [10, 8]
    assert layer.parameters() == 4 + 2 + 4 + 2


@pytest.mark.parametrize("norm, activation", [(True, "relu"), (False, "silu")])
def test_against_float64(norm, activation):
    parts = [
        drawn(*shape, seed=i)
        for i, shape in enumerate(
            [(5, 8), (8,), (8, 3), (3,), (3, 8), (8,), (8,), (8,)]
        )
    ]
    kernel, bias, down, small, up, large, scale, shift = (
        np.asarray(part, np.float64) for part in parts
    )
    x = np.asarray(drawn(4, 5, seed=9), np.float64)
    y = seen = x @ kernel + bias
    if norm:
        seen = (y - y.mean(-1, keepdims=True)) / np.sqrt(
            y.var(-1, keepdims=True) + 1e-5
        ) * scale + shift
    z = seen @ down + small
    wanted = (
        y
        + (np.maximum(z, 0) if activation == "relu" else z / (1 + np.exp(-z))) @ up
        + large
    )
    own = LayerNorm(parts[6], parts[7], epsilon=1e-5) if norm else None
    layer = BottleneckAdapter(
        Linear(*parts[:2]),
        Affine(*parts[2:4]),
        Affine(*parts[4:6]),
        own,
        activation=activation,
    )
    np.testing.assert_allclose(layer(jnp.float32(x)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "method, places, activation, norm",
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
def test_where_they_are_and_what_is_in_them(method, places, activation, norm, tiny):
    model = method.adapt(KEY, tiny())
    layers = methods.adapters(model)
    assert list(layers) == places
    for layer in layers.values():
        assert (
            layer.activation == activation and (layer.adapter_norm is not None) == norm
        )
        assert (
            layer.adapter_down.matrix.shape == (2, 16, 3)
            and not layer.adapter_up.matrix[...].any()
        )
    trainable = tree.split(model, methods.mask(model, method, head=False))[0]
    assert all("/adapter_" in path for path in tree.leaves(trainable))
    decayed = {
        path for path, leaf in tree.leaves(train.decay_mask(trainable)).items() if leaf
    }
    assert decayed == {
        f"{place}/adapter_{side}/matrix" for place in places for side in ("down", "up")
    }


@pytest.mark.parametrize("name", ["gpt2-medium", "gpt2-large"])
@pytest.mark.parametrize(
    "rank", [6, 224]
)  # of Table 3's Adapter^L, 0.37 M and 11.09 M at GPT-2 medium
def test_parameters_are_the_closed_form_s(name, rank):
    config = gpt2.Config(
        *accounting.ARCHITECTURES[name][2:8], epsilon=1e-5, activation="gelu_new"
    )
    model = jax.eval_shape(partial(gpt2.init, config=config), KEY)
    wanted = {
        "adapter_h": accounting.Adapter(rank),
        "adapter_l": accounting.Adapter(rank, per_block=1, norms=1),
    }
    for kind, formula in wanted.items():
        method = methods.make(kind, bottleneck=rank)
        count = methods.counts(jax.eval_shape(method.adapt, KEY, model), method)
        assert count == (accounting.trainable_parameters(formula, name), 0)


@pytest.mark.parametrize("make", [methods.adapter_h, methods.adapter_l])
def test_settings_and_models_that_do_not_fit_are_refused(make, tiny):
    with pytest.raises(
        ValueError, match=r"bottleneck: expected an integer >= 1, got 0$"
    ):
        make(0)
    with pytest.raises(
        ValueError, match=r"adapter_[hl]: '\w+/\w+' matches no layer; there are: .*up"
    ):
        make().adapt(KEY, tiny().blocks.mlp)
    with pytest.raises(ValueError, match=r"adapter_[hl]: '\w+/\w+' matches no layer"):
        make().adapt(KEY, make().adapt(KEY, tiny()))
