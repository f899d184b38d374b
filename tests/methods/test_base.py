"""Masks and counts of a method on a model that another method has adapted before."""

import jax
import pytest

from lora_jax import methods, models, tree
from lora_jax.methods.lora import LoRA

KEY = jax.random.key(0)

# (the earlier method, the later one, what the later one trains of the tiny encoder)
LORA = methods.lora("query,value", 2)
PAIRS = {
    "prefix, lora": (methods.prefix(3), LORA),
    "lora, prefix": (LORA, methods.prefix(3)),
    "adapter_h, lora": (methods.adapter_h(3), LORA),
    "lora, bitfit": (LORA, methods.bitfit()),
    "lora, adapter_l": (LORA, methods.adapter_l(3)),
}


@pytest.fixture(scope="module")
def encoder():
    return models.load("tiny")[0]


def adapted_by(earlier, later, model):
    return later.adapt(KEY, earlier.adapt(KEY, model))


def trainable_leaves(method, model) -> dict:
    """The leaves that the method trains, without the head."""
    trainable, _ = tree.split(model, methods.mask(model, method, head=False))
    return tree.leaves(trainable)


@pytest.mark.parametrize("name", PAIRS)
def test_the_later_method_counts_as_on_the_plain_model(name, encoder):
    earlier, later = PAIRS[name]
    alone = methods.counts(later.adapt(KEY, encoder), later)
    both = adapted_by(earlier, later, encoder)
    assert methods.counts(both, later) == alone
    sizes = [leaf.size for leaf in trainable_leaves(later, both).values()]
    assert sum(sizes) == alone.adapter > 0


@pytest.mark.parametrize("later", [methods.full(), methods.top(1)])
def test_the_scale_of_lora_is_never_trained(later, encoder):
    """alpha/r is a setting; A and B of the earlier adaptation are weights."""
    both = adapted_by(LORA, later, encoder)
    paths = list(trainable_leaves(later, both))
    assert any(path.endswith("query/lora_a") for path in paths)
    assert [
        path for path in paths if path.endswith(("query/scale", "value/scale"))
    ] == []
    # The norms' scales are weights.
    assert any(path.endswith("norm/scale") for path in paths)
    sizes = [leaf.size for leaf in trainable_leaves(later, both).values()]
    assert methods.counts(both, later).adapter == sum(sizes)


def test_ranks_that_are_padded_do_not_count_under_full(encoder):
    padded = methods.lora("query,value", 2, rank_multiple=8)
    full = methods.full()
    counts = []
    for method in (LORA, padded):
        counts.append(methods.counts(adapted_by(method, full, encoder), full))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("targets", ["(query|value)", "key"])
def test_lora_on_lora_is_refused(targets, encoder):
    """Of the layers that have it, and of others: both A and B would be trained."""
    once = LORA.adapt(KEY, encoder)
    text = (
        "lora: expected a model without adapters of this kind, got some at "
        "blocks/attention/query, blocks/attention/value; fold them in with "
        "methods.merge, or take them off with methods.unload"
    )
    with pytest.raises(ValueError) as error:
        methods.lora(targets, 3).adapt(KEY, once)
    assert str(error.value) == text
    # Merged or unloaded, the model takes another LoRA.
    for plain in (methods.merge(once), methods.unload(once)):
        assert methods.lora("key", 3).adapt(KEY, plain) is not None


def test_idle_adapters_may_be_narrower_than_the_rank():
    """Keys of grouped queries: 576 x 192 in SmolLM2, but r = 256 for the query."""
    decoder = models.load("tiny-llama")[0]
    layers = methods.adapters(methods.lora("key").adapt(KEY, decoder))
    (narrow,) = layers.values()
    width = min(narrow.lora_a.shape[-2], narrow.lora_b.shape[-1])
    rank = width + 4
    with pytest.raises(ValueError, match=rf"rank: expected 1 <= rank <= {width} for"):
        methods.lora("key", rank).adapt(KEY, decoder)

    plain = methods.lora("query", rank)
    beside = methods.lora("query", rank, idle_targets="key")
    adapted = beside.adapt(KEY, decoder)
    expected = methods.counts(plain.adapt(KEY, decoder), plain)
    assert methods.counts(adapted, beside) == expected
    idle = [
        layer for layer in methods.adapters(adapted).values() if not layer.scale.any()
    ]
    assert [type(layer) for layer in idle] == [LoRA]
