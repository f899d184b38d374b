"""The adapter of a fine-tuned model, against the theorem of Eckart and Young in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import methods, tree
from lora_jax.methods.lora import LoRA, LoRAEmbedding
from lora_jax.methods.lora_from_delta import lora_from_delta
from lora_jax.nn.layers import Embedding, Linear

SEEDS = st.integers(0, 2**32 - 1)


def random_adapter(rng, layer, rank):
    *stack, i, o = layer.kernel.shape
    a = jnp.float32(rng.normal(size=(*stack, i, rank)))
    b = jnp.float32(rng.normal(size=(*stack, rank, o)))
    return LoRA(layer, a, b, jnp.full((*stack, rank), 0.5))


@pytest.fixture(scope="module")
def tuned(tiny):
    """The tiny model with every leaf moved a little."""
    rng = np.random.default_rng(1)
    moved = {}
    for path, leaf in tree.leaves(tiny()).items():
        moved[path] = leaf + jnp.float32(0.1 * rng.normal(size=leaf.shape))
    return tree.replace(tiny(), moved)


class TestByHand:
    @pytest.fixture
    def base(self):
        query = Linear(jnp.ones((2, 2)), jnp.zeros(2))
        return {"query": query, "head": Linear(jnp.zeros((2, 1)))}

    @pytest.fixture
    def after(self):
        """ΔW is diag(4, 1)."""
        query = Linear(jnp.array([[5.0, 1.0], [1.0, 2.0]]), jnp.ones(2))
        return {"query": query, "head": Linear(jnp.ones((2, 1)))}

    def test_rank_one(self, base, after):
        model = lora_from_delta(base, after, targets="query", rank=1)
        layer = model["query"]
        np.testing.assert_allclose(layer.delta(), [[4, 0], [0, 0]], atol=1e-6)
        # The root of 4 in either factor.
        np.testing.assert_allclose(np.abs(layer.lora_a[...]), [[2], [0]], atol=1e-6)
        assert layer.scale[...].tolist() == [1]
        assert layer.base.kernel[...].tolist() == [[1, 1], [1, 1]]
        assert layer.base.bias[...].tolist() == [0, 0]
        # The head is the tuned model's.
        assert model["head"].kernel[...].tolist() == [[1], [1]]

    def test_all_of_it(self, base, after):
        model = lora_from_delta(base, after, targets="query", rank=2, others="tuned")
        assert model["query"].base.bias[...].tolist() == [1, 1]
        kernel = methods.merge(model)["query"].kernel[...]
        expected = after["query"].kernel[...]
        np.testing.assert_allclose(kernel, expected, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(
    rank=st.sampled_from([1, 4]),
    seed=SEEDS,
    pattern=st.sampled_from(["query,value", "mlp/.*"]),
)
def test_of_a_merged_lora_of_that_rank_it_is_exact(tiny, rank, seed, pattern):
    rng = np.random.default_rng(seed)
    adapters = {}
    for path, layer in methods.targets(tiny(), pattern).items():
        adapters[path] = random_adapter(rng, layer, rank)
    tuned = methods.merge(tree.replace(tiny(), adapters))
    extracted = lora_from_delta(tiny(), tuned, targets=pattern, rank=rank)
    merged = tree.leaves(methods.merge(extracted))
    for path, leaf in tree.leaves(tuned).items():
        np.testing.assert_allclose(merged[path], leaf, atol=2e-5, err_msg=path)


@settings(deadline=None, max_examples=20)
@given(
    rank=st.sampled_from([1, 3, 5]),
    seed=SEEDS,
    size=st.sampled_from([(6, 8), (8, 5)]),
)
def test_the_error_is_the_tail_of_the_singular_values(rank, seed, size):
    rng = np.random.default_rng(seed)
    before, after = rng.normal(size=(2, 3, *size)).astype(np.float32)
    base = {"up": Linear(before)}
    tuned = {"up": Linear(after)}
    model = lora_from_delta(base, tuned, targets="up", rank=rank)
    extracted = np.asarray(model["up"].delta(), np.float64)

    delta = after.astype(np.float64) - before
    error = np.linalg.norm(delta - extracted, axis=(-2, -1))
    singular_values = np.linalg.svd(delta, compute_uv=False)
    tail = singular_values[:, rank:]
    np.testing.assert_allclose(error, np.sqrt((tail**2).sum(-1)), atol=2e-5)


def test_a_stack_s_layers_are_decomposed_by_themselves(tiny, tuned):
    model = lora_from_delta(tiny(), tuned, targets="query", rank=3)
    before = tiny().blocks.attention.query.kernel[...]
    after = tuned.blocks.attention.query.kernel[...]
    for layer, delta in enumerate(model.blocks.attention.query.delta()):
        base = {"query": Linear(before[layer])}
        tuned_layer = {"query": Linear(after[layer])}
        alone = lora_from_delta(base, tuned_layer, targets="query", rank=3)
        np.testing.assert_allclose(delta, alone["query"].delta(), atol=1e-5)


@pytest.mark.parametrize("others", ["base", "tuned"])
def test_whose_the_other_leaves_are(tiny, tuned, others):
    model = lora_from_delta(tiny(), tuned, targets="query", rank=16, others=others)
    base_leaves = tree.leaves(tiny())
    tuned_leaves = tree.leaves(tuned)
    for path, leaf in tree.leaves(methods.merge(model)).items():
        if path == "blocks/attention/query/kernel":
            np.testing.assert_allclose(leaf, tuned_leaves[path], atol=1e-5)
            continue
        is_tuned = others == "tuned" or path.startswith("head/")
        source = tuned_leaves if is_tuned else base_leaves
        assert leaf.tolist() == source[path].tolist(), path


def test_it_counts_and_adapts_as_any_lora(tiny, tuned):
    model = lora_from_delta(tiny(), tuned, rank=4)
    head = tree.count(tiny().head)
    assert methods.counts(model, methods.lora()) == (2 * 2 * 4 * (16 + 16), head)
    paths = {"blocks/attention/query", "blocks/attention/value"}
    assert methods.adapters(model).keys() == paths


def test_embeddings_and_flax_layers():
    rng = np.random.default_rng(0)
    models = []
    for seed in (0, 1):
        table = np.float32(rng.normal(size=(9, 4)))
        linear = nnx.Linear(4, 3, rngs=nnx.Rngs(seed))
        models.append({"tokens": Embedding(table), "proj": linear})
    base, tuned = models
    model = lora_from_delta(base, tuned, targets="tokens,proj", rank=3)
    assert isinstance(model["tokens"], LoRAEmbedding)
    assert isinstance(model["proj"], LoRA)
    kernel = methods.merge(model)["proj"].kernel[...]
    np.testing.assert_allclose(kernel, tuned["proj"].kernel[...], atol=1e-6)
    assert model["tokens"](jnp.array([8])).shape == (1, 4)


def test_half_precision_kernels_are_widened():
    base = {"up": Linear(jnp.full((2, 2), 1.0, jnp.bfloat16))}
    tuned = {"up": Linear(jnp.full((2, 2), 1.5, jnp.bfloat16))}
    model = lora_from_delta(base, tuned, targets="up", rank=1)
    assert model["up"].lora_a[...].dtype == jnp.float32
    assert methods.merge(model)["up"].kernel[...].tolist() == [[1.5, 1.5], [1.5, 1.5]]


class TestErrors:
    def test_shapes_that_differ(self, tiny):
        text = (
            r"leaves alike .* head/bias: \(3,\) and \(2,\); "
            r"head/kernel: \(16, 3\) and \(16, 2\)"
        )
        with pytest.raises(ValueError, match=text):
            lora_from_delta(tiny(), tiny(labels=2))

    def test_adapters_that_are_not_merged(self, tiny):
        adapted = methods.lora("query,key,value").adapt(jax.random.key(0), tiny())
        text = (
            r"merge adapters first.*query/kernel: \(2, 16, 16\) and none; "
            r".*; … \(21 in all\)"
        )
        with pytest.raises(ValueError, match=text):
            lora_from_delta(tiny(), adapted)

    def test_a_pattern_that_matches_nothing(self, tiny, tuned):
        text = "targets: 'qeury' matches no layer; there are: blocks/attention/query"
        with pytest.raises(ValueError, match=text):
            lora_from_delta(tiny(), tuned, targets="qeury")

    @pytest.mark.parametrize("rank", [0, 17])
    def test_a_rank_outside_the_matrices(self, tiny, tuned, rank):
        text = (
            rf"rank: expected 1 <= rank <= min\(i, o\), got {rank} for "
            r".*query \(16 x 16\), .*up \(16 x 32\)"
        )
        with pytest.raises(ValueError, match=text):
            lora_from_delta(tiny(), tuned, targets="query,up", rank=rank)

    def test_unknown_others(self, tiny, tuned):
        text = "others: expected base or tuned, got 'mine'"
        with pytest.raises(ValueError, match=text):
            lora_from_delta(tiny(), tuned, others="mine")
