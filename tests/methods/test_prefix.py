"""Prefixes: they are like tokens in front of the text, at each layer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import accounting, methods, tree
from lora_jax.methods.prefix import read_by_attention
from lora_jax.models import gpt2, llama
from lora_jax.nn.attention import AttentionContext
from lora_jax.nn.visibility import Visibility

KEY = jax.random.key(0)
SIZES: dict[str, Any] = dict(
    layers=3, width=16, heads=2, ffn=24, vocabulary=50, max_positions=16, epsilon=1e-5
)
GPT2 = gpt2.Config(**SIZES, activation="gelu_new")
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
    leaves = {}
    for path, leaf in tree.leaves(model).items():
        mean = 1 if path.endswith("scale") else 0
        leaves[path] = jnp.float32(mean + 0.3 * rng.normal(size=leaf.shape))
    return tree.replace(model, leaves)


# Of Llama's one word: what is at position 0 is not turned, and so is like a prefix.
@pytest.mark.parametrize(
    ("module", "config", "words"),
    [(gpt2, GPT2, 3), (llama, LLAMA, 1)],
    ids=["gpt2", "llama"],
)
def test_a_prefix_read_from_words_is_those_words_in_front(module, config, words):
    base = drawn(module.init(KEY, config))
    tokens = np.random.default_rng(1).integers(0, 50, (2, 8))
    # Both rows begin with the same words.
    tokens[:, :words] = tokens[0, :words]
    text = tokens[:, words:]
    hidden = jax.jit(type(base).hidden)(base, tokens)
    expected = hidden[:, words:]

    model = methods.prefix(words).adapt(KEY, base)
    read = read_by_attention(base, tokens[:1, :words])  # [L, 1, P, D]
    model = tree.replace(model, {"blocks/attention/prefix": read[:, 0]})
    # The text's first position is that after the words.
    start = jnp.full(2, -words)
    extend = jax.jit(type(base).extend)
    states, _ = extend(model, text, model.cache(2, 8 - words), 0, start)
    np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-4)
    # Without the prefix they are others.
    states, _ = extend(base, text, base.cache(2, 8 - words), 0, start)
    assert np.abs(states - expected).max() > 0.1


def test_it_starts_as_tokens_of_the_vocabulary(tiny):
    prefix = methods.prefix(4).adapt(KEY, tiny()).blocks.attention.prefix[0]  # [P, D]
    tokens = jnp.repeat(jnp.arange(50)[:, None], 4, axis=1)  # [V, P]
    embedded = tiny().embed(tokens, jnp.zeros_like(tokens))
    distance = np.abs(embedded - prefix).max(-1)  # [V, P]
    assert (distance.min(0) < 1e-5).all()
    # They are not all the same token.
    assert len(set(distance.argmin(0))) > 1


def test_an_encoder_s_block_reads_it_as_tokens_in_front(tiny, batch):
    model = methods.prefix(4).adapt(KEY, tiny())
    block = tree.unstack(model.blocks)[1]
    plain_block = tree.unstack(tiny().blocks)[1]

    def output(block, x, length, queries=None):
        def call(x):
            context = AttentionContext(Visibility(stop=length))
            return block(x, context, queries=queries)

        return jax.jit(call)(x)

    x = tiny().embed(batch.tokens, batch.segments)
    front = jnp.broadcast_to(block.attention.prefix[...], (8, 4, 16))
    longer_x = jnp.concatenate([front, x], 1)
    # All tokens attend to the prefix.
    expected = output(plain_block, longer_x, batch.length + 4)[:, 4:]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(output(block, x, batch.length), expected)
    close(output(block, x, batch.length, queries=1), expected[:, :1])


@pytest.mark.parametrize("name", ["gpt2-medium", "gpt2-large"])
def test_parameters_are_the_closed_form_s(name):
    config = gpt2.Config(
        *accounting.ARCHITECTURES[name][2:8], epsilon=1e-5, activation="gelu_new"
    )
    method = methods.prefix(7)
    base = jax.eval_shape(functools.partial(gpt2.init, config=config), KEY)
    model = jax.eval_shape(method.adapt, KEY, base)
    formula = accounting.Prefix(7, every_layer=True)
    expected = accounting.trainable_parameters(formula, name)
    assert methods.counts(model, method) == (expected, 0)


def test_lora_inside_is_counted_merged_and_unloaded_with_it(tiny, same):
    """LoRA+PL of Table 15."""
    lora = methods.lora(rank=2)
    prefix = methods.prefix(4)
    model = prefix.adapt(KEY, lora.adapt(KEY, tiny()))
    both = methods.Method("both", prefix.adapt, f"{lora.trainable}|{prefix.trainable}")
    of_lora = 2 * 2 * 2 * (16 + 16)
    of_prefix = 2 * 4 * 16
    assert methods.counts(model, both).adapter == of_lora + of_prefix
    assert list(methods.adapters(methods.merge(model))) == ["blocks/attention"]
    assert same(methods.unload(model), tiny())


def test_a_length_that_is_none_is_refused(tiny):
    text = r"prefix_length: expected an integer >= 1, got 0$"
    with pytest.raises(ValueError, match=text):
        methods.prefix(0)
    text = r"prefix_length: expected at most 24, the model's positions, got 25$"
    with pytest.raises(ValueError, match=text):
        methods.prefix(25).adapt(KEY, tiny())


def test_a_model_without_this_library_s_attention_is_refused(tiny):
    text = "a model whose blocks/attention is this library's Attention, got "
    with pytest.raises(ValueError, match=text + "none$"):
        methods.prefix().adapt(KEY, tiny().embed)
    adapted = methods.prefix().adapt(KEY, tiny())
    with pytest.raises(ValueError, match=text + "PrefixLayer$"):
        methods.prefix().adapt(KEY, adapted)
