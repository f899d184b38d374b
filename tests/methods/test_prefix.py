"""Prefixes: they are tokens in front of the text. What is learned of them is what such tokens are at each layer."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import accounting, methods, tree
from lora_jax.methods.prefix import read_by_attention
from lora_jax.models import gpt2, llama

KEY = jax.random.key(0)
SIZES: dict[str, Any] = dict(
    layers=3, width=16, heads=2, ffn=24, vocabulary=50, max_positions=16, epsilon=1e-5
)
GPT2 = gpt2.Config(**SIZES, activation="gelu_new")
compiled = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # half the time to compile
LLAMA = llama.Config(
    **SIZES,
    kv_heads=1,
    head_dim=8,
    activation="silu",
    rope_frequencies=(1.0, 0.3, 0.1, 0.03),
    biases=(True, False, False),
    tie_embeddings=False,
)


def drawn(model):
    """Every leaf N(0, 0.3²), or so around 1."""
    rng = np.random.default_rng(0)
    new = {
        p: 0.3 * rng.normal(size=leaf.shape) + p.endswith("scale")
        for p, leaf in tree.leaves(model).items()
    }
    return tree.replace(model, {path: jnp.float32(leaf) for path, leaf in new.items()})


@pytest.mark.parametrize(
    "module, config, words", [(gpt2, GPT2, 3), (llama, LLAMA, 1)], ids=["gpt2", "llama"]
)
def test_a_prefix_of_what_words_are_at_each_layer_is_those_words_in_front(
    module, config, words
):
    # Of Llama's one: what stands at position 0 is not turned, and so is as a prefix is.
    base, tokens = (
        drawn(module.init(KEY, config)),
        np.random.default_rng(1).integers(0, 50, (2, 8)),
    )
    tokens[:, :words] = tokens[0, :words]
    model = methods.prefix(words).adapt(KEY, base)
    model = tree.replace(
        model,
        {"blocks/attention/prefix": read_by_attention(base, tokens[:1, :words])[:, 0]},
    )
    wanted = compiled(type(base).hidden)(base, tokens)[:, words:]
    began = jnp.full(2, -words)  # the text's first position is that after the words
    extend, text = compiled(type(base).extend), tokens[:, words:]
    got, _ = extend(model, text, model.cache(2, 8 - words), 0, began)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    without, _ = extend(base, text, base.cache(2, 8 - words), 0, began)
    assert np.abs(without - wanted).max() > 0.1


def test_it_starts_as_tokens_that_there_are(tiny):
    first = methods.prefix(4).adapt(KEY, tiny()).blocks.attention.prefix[0]
    every = jnp.repeat(jnp.arange(50)[:, None], 4, axis=1)
    distance = np.abs(tiny().embed(every, jnp.zeros_like(every)) - first).max(
        -1
    )  # [V, P]
    assert (distance.min(0) < 1e-5).all() and len(set(distance.argmin(0))) > 1


def test_an_encoder_s_block_reads_it_as_tokens_in_front(tiny, batch):
    model, x = (
        methods.prefix(4).adapt(KEY, tiny()),
        tiny().embed(batch.tokens, batch.segments),
    )
    mask = (jnp.arange(16) < batch.length[:, None])[:, None]
    block, plain = (tree.unstack(each.blocks)[1] for each in (model, tiny()))
    output = compiled(type(plain).__call__, static_argnames="queries")
    front = jnp.broadcast_to(block.attention.prefix[...], (8, 4, 16))
    wanted = output(
        plain,
        jnp.concatenate([front, x], 1),
        jnp.pad(mask, [(0, 0), (0, 0), (4, 0)], constant_values=True),
    )
    np.testing.assert_allclose(
        output(block, x, mask), wanted[:, 4:], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        output(block, x, mask, queries=1), wanted[:, 4:5], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["gpt2-medium", "gpt2-large"])
def test_parameters_are_the_closed_form_s(name):
    config = gpt2.Config(
        *accounting.ARCHITECTURES[name][2:8], epsilon=1e-5, activation="gelu_new"
    )
    method = methods.prefix(7)
    model = jax.eval_shape(
        method.adapt, KEY, jax.eval_shape(partial(gpt2.init, config=config), KEY)
    )
    assert methods.counts(model, method) == (
        accounting.trainable_parameters(accounting.Prefix(7, every_layer=True), name),
        0,
    )


def test_lora_inside_is_counted_merged_and_unloaded_with_it(
    tiny, same
):  # LoRA+PL of Table 15
    lora, prefix = methods.lora(rank=2), methods.prefix(4)
    model = prefix.adapt(KEY, lora.adapt(KEY, tiny()))
    both = methods.Method("both", prefix.adapt, f"{lora.trainable}|{prefix.trainable}")
    assert methods.counts(model, both).adapter == 2 * 2 * 2 * (16 + 16) + 2 * 4 * 16
    assert list(methods.adapters(methods.merge(model))) == ["blocks/attention"]
    assert same(methods.unload(model), tiny())


def test_settings_and_models_that_do_not_fit_are_refused(tiny):
    with pytest.raises(
        ValueError, match=r"prefix_length: expected an integer >= 1, got 0$"
    ):
        methods.prefix(0)
    with pytest.raises(
        ValueError,
        match=r"prefix_length: expected at most 24, the model's positions, got 25$",
    ):
        methods.prefix(25).adapt(KEY, tiny())
    for model, got in [
        (tiny().embed, "none"),
        (methods.prefix().adapt(KEY, tiny()), "PrefixLayer"),
    ]:
        with pytest.raises(
            ValueError,
            match=rf"a model whose blocks/attention is this library's Attention, got {got}$",
        ):
            methods.prefix().adapt(KEY, model)
