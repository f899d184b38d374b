"""LoRA against the paper's definition: its start, its scale, its targets, its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from lora_jax import methods, train, tree
from lora_jax.methods.lora import LoRA, LoRAEmbedding, lora
from lora_jax.nn.layers import Embedding, Linear
from lora_jax.train import classification

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def wide():
    """Two layers of 1000 x 500 and an embedding of 1000 x 500."""
    zeros = np.zeros((1000, 500), np.float32)
    return {"query": Linear(zeros), "value": Linear(zeros), "tokens": Embedding(zeros)}


def trainable_paths(method, base) -> set[str]:
    """Return the paths of the leaves that the method trains, without the head."""
    model = method.adapt(KEY, base)
    trainable, _ = tree.split(model, methods.mask(model, method, head=False))
    return set(tree.leaves(trainable))


def assert_drawn_from(values, distribution) -> None:
    sample = np.ravel(values)
    assert stats.kstest(sample, distribution.cdf).pvalue > 0.01


def test_adapters_of_two_ranks_start_from_other_numbers(wide):
    """A generator gives the same first numbers for any shape, unless its key differs."""
    starts = []
    for rank in (2, 4):
        adapted = lora("query", rank).adapt(KEY, wide)
        starts.append(np.ravel(adapted["query"].lora_a[...]))
    narrow, broad = starts
    correlation = np.corrcoef(narrow, broad[: len(narrow)])[0, 1]
    # Of 2,000 pairs of random numbers, 0.02 is one standard deviation.
    assert abs(correlation) < 0.1


class TestDefinition:
    """h = W0 x + (alpha / r) B A x."""

    def layer(self, **options):
        kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        base = Linear(kernel, jnp.array([0.5, 0.5]))
        a = jnp.array([[1.0], [1.0]])
        b = jnp.array([[1.0, -1.0]])
        return LoRA(base, a, b, jnp.array([3.0]), **options)

    def test_by_hand(self):
        layer = self.layer()
        merged = layer.merged()
        x = jnp.array([1.0, 1.0])
        # W0 x = (4, 6). A x = 2, times 3, and B gives (6, -6).
        assert layer(x).tolist() == [10.5, 0.5]
        assert layer.delta().tolist() == [[3, -3], [3, -3]]
        assert merged.kernel[...].tolist() == [[4, -1], [6, 1]]
        assert merged(x).tolist() == [10.5, 0.5]

    def test_embedding_by_hand(self):
        base = Embedding(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        a = jnp.array([[0.0], [2.0]])
        b = jnp.array([[1.0, -1.0]])
        layer = LoRAEmbedding(base, a, b, jnp.array([0.5]))
        tokens = jnp.array([1, 0])
        assert layer(tokens).tolist() == [[4, 3], [1, 2]]
        assert layer.merged()(tokens).tolist() == [[4, 3], [1, 2]]

    def test_is_computed_in_the_dtype_of_its_input(self):
        assert self.layer()(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
        kernel = jnp.ones((2, 2), jnp.bfloat16)
        half = tree.replace(self.layer(), {"base/kernel": kernel})
        assert half.merged().kernel[...].dtype == jnp.bfloat16

    def test_dropout_is_of_its_own_input_and_only_with_a_key(self):
        base = Linear(jnp.full((64, 64), 2.0))
        identity = jnp.eye(64)
        layer = LoRA(base, identity, identity, jnp.ones(64), rate=0.5)
        x = jnp.arange(1.0, 65.0)
        np.testing.assert_allclose(layer(x), base(x) + x)
        # What is kept is scaled up by 2, of the adapter's input and not of the base's.
        factor = np.asarray((layer(x, KEY) - base(x)) / x)
        assert set(factor.round(3).tolist()) == {0.0, 2.0}
        dropped = (factor == 0).sum()
        assert 16 < dropped < 48
        assert not np.array_equal(layer(x, KEY), layer(x, jax.random.key(1)))

    def test_dropout_reaches_the_model_s_layers_in_training(self, tiny, batch):
        model = lora(rank=2, dropout=0.5).adapt(KEY, tiny())
        # With B at zero the adapter would add nothing.
        ones = {}
        for path, leaf in tree.find(model, "lora_b$").items():
            ones[path] = jnp.ones_like(leaf)
        model = tree.replace(model, ones)
        trainable, frozen = tree.split(model, methods.mask(model, lora()))

        gradient = jax.jit(train.gradient, static_argnames=("loss", "config"))
        losses = []
        for seed in (0, 0, 1):
            value, _ = gradient(
                trainable,
                frozen,
                batch,
                jax.random.key(seed),
                loss=classification.loss,
                config=train.StepConfig(),
            )
            losses.append(float(value))
        assert losses[0] == losses[1]
        assert losses[0] != losses[2]


class TestInit:
    def test_gaussian_has_variance_one_over_three_inputs(self, wide):
        a = lora().adapt(KEY, wide)["query"].lora_a[...]
        assert a.shape == (1000, 8)
        assert_drawn_from(a, stats.norm(0, (3 * 1000) ** -0.5))

    def test_kaiming_uniform_fills_the_bound_of_the_official_code(self, wide):
        model = lora(init="kaiming_uniform").adapt(KEY, wide)
        a = np.asarray(model["query"].lora_a[...])
        bound = 1000**-0.5
        assert_drawn_from(a, stats.uniform(-bound, 2 * bound))
        assert 0.99 * bound < np.abs(a).max() <= bound

    def test_b_is_zero(self, wide):
        assert not lora().adapt(KEY, wide)["query"].lora_b[...].any()

    def test_an_embedding_has_them_the_other_way_round(self, wide):
        layer = lora("tokens").adapt(KEY, wide)["tokens"]
        assert layer.lora_a.shape == (1000, 8)
        assert not layer.lora_a[...].any()
        assert_drawn_from(layer.lora_b[...], stats.norm)

    def test_stacked_layers_are_of_their_own_inputs_and_differ(self):
        stack = {"query": Linear(np.zeros((3, 400, 100), np.float32))}
        model = lora("query").adapt(KEY, stack)
        a = np.asarray(model["query"].lora_a[...])
        assert_drawn_from(a, stats.norm(0, (3 * 400) ** -0.5))
        is_equal = a[0] == a[1]
        assert is_equal.mean() < 0.01

    def test_is_a_function_of_key_path_and_rank_alone(self, wide):
        def a_of(path="query", key=KEY, targets="query,value", **options):
            model = lora(targets, **options).adapt(key, wide)
            return np.asarray(model[path].lora_a[...])

        others = a_of(targets="value,query,tokens", alpha=3.0, bias="all")
        assert np.array_equal(a_of(), others)
        assert not np.array_equal(a_of(), a_of(key=jax.random.key(1)))
        assert not np.array_equal(a_of(), a_of("value"))

        few, _ = np.linalg.qr(a_of(rank=4))
        many, _ = np.linalg.qr(a_of(rank=8))
        # Directions shared by construction would give 1.
        assert np.linalg.norm(few.T @ many, 2) < 0.3


class TestScale:
    @pytest.mark.parametrize(
        ("rank", "alpha", "stabilized", "scale"),
        [(8, 16.0, False, 2), (4, 6.0, False, 1.5), (4, 6.0, True, 3)],
    )
    def test_is_alpha_over_r_or_its_root(self, wide, rank, alpha, stabilized, scale):
        method = lora("query", rank, alpha, rank_stabilized=stabilized)
        model = method.adapt(KEY, wide)
        assert model["query"].scale[...].tolist() == [scale] * rank

    def test_first_pattern_that_matches_gives_rank_and_alpha(self, tiny):
        method = lora(
            "query,value,up",
            rank={"query": 2, "attention/.*": 4, ".": 3},
            alpha={"up": 6.0, r"attention/\w+$": 8.0},
        )
        blocks = method.adapt(KEY, tiny()).blocks

        def rank_and_scale(layer):
            return layer.lora_a.shape[-1], float(layer.scale[...][0, 0])

        assert rank_and_scale(blocks.attention.query) == (2, 4.0)
        assert rank_and_scale(blocks.attention.value) == (4, 2.0)
        assert rank_and_scale(blocks.mlp.up) == (3, 2.0)

    def test_chosen_layers_alone_have_a_scale(self):
        stack = {"query": Linear(np.zeros((6, 4, 4), np.float32))}
        method = lora("query", 2, 2.0, layers=(0, 5))
        model = method.adapt(KEY, stack)
        scale = model["query"].scale[...]  # [L, r]
        assert scale[:, 0].tolist() == [1, 0, 0, 0, 0, 1]
        assert scale[:, 1].tolist() == [1, 0, 0, 0, 0, 1]
        # Two layers of rank 2.
        assert methods.counts(model, method).adapter == 2 * 2 * (4 + 4)
        trained = tree.replace(model, {"query/lora_b": jnp.ones((6, 2, 4))})
        changed = trained["query"].delta().any(axis=(1, 2))  # [L]
        assert np.flatnonzero(changed).tolist() == [0, 5]


class TestTargets:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("query,value", {"attention/query", "attention/value"}),
            ("key, up", {"attention/key", "mlp/up"}),
            ("attention/output", {"attention/output"}),
            (r"mlp/|key$", {"mlp/up", "mlp/down", "attention/key"}),
        ],
    )
    def test_by_name_or_regex(self, tiny, pattern, expected):
        model = lora(pattern, 2).adapt(KEY, tiny())
        paths = methods.adapters(model)
        assert {path.removeprefix("blocks/") for path in paths} == expected

    @pytest.mark.parametrize("pattern", ["output", "output$", "."])
    def test_the_head_is_never_adapted(self, tiny, pattern):
        model = tiny("roberta")
        paths = methods.targets(model, pattern)
        assert "blocks/attention/output" in paths
        assert not [path for path in paths if path.startswith("head")]
        # Though it has an output, too.
        assert {"head/dense/kernel", "head/output/kernel"} <= set(tree.leaves(model))

    def test_names_are_whole(self, wide):
        text = "'uery' matches no layer; there are: query"
        with pytest.raises(ValueError, match=text):
            lora("uery").adapt(KEY, wide)

    def test_adapters_are_trained_and_the_biases_asked_for(self, tiny):
        paths = {}
        for bias in ("none", "lora_only", "all"):
            paths[bias] = trainable_paths(lora("query", 2, bias=bias), tiny())
        query = "blocks/attention/query"
        assert paths["none"] == {f"{query}/lora_a", f"{query}/lora_b"}
        assert paths["lora_only"] == paths["none"] | {f"{query}/base/bias"}

        biases = set()
        for path in tree.leaves(lora("query", 2).adapt(KEY, tiny())):
            if path.endswith("bias") and not path.startswith("head/"):
                biases.add(path)
        assert paths["all"] == paths["none"] | biases


class TestStorage:
    """`rank_multiple` and `idle_targets` change what is stored, not what is computed."""

    def test_idle_adapters_have_the_rank_of_the_widest(self, tiny):
        ranks = {"query": 2, "value": 4}
        method = lora("query,value", ranks, idle_targets="up")
        model = method.adapt(KEY, tiny())
        assert model.blocks.mlp.up.lora_a.shape[-1] == 4

    def test_idle_adapters_make_target_sets_alike_to_a_compiler(self, tiny):
        models = []
        for names in ("query", "query,value"):
            method = lora(names, 2, rank_multiple=4, idle_targets="query,value,up")
            models.append(method.adapt(KEY, tiny()))
        few, many = models
        assert jax.tree.structure(few) == jax.tree.structure(many)
        pairs = zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True)
        for one, other in pairs:
            assert one.shape == other.shape

        # They are not counted, and add nothing whatever is trained.
        plain = lora("query", 2).adapt(KEY, tiny())
        assert methods.counts(few, lora()) == methods.counts(plain, lora())
        idle = tree.replace(few.blocks.mlp.up, {"lora_b": jnp.ones((2, 4, 32))})
        assert not idle.delta().any()

    def test_a_padded_rank_is_trained_as_the_native_one(self, tiny, examples):
        config = train.TrainConfig(
            learning_rate=0.02, epochs=2, batch=8, weight_decay=0.1, clip=0.5
        )

        def run(multiple):
            method = lora("query,value", 3, rank_multiple=multiple)
            model = method.adapt(KEY, tiny())
            return train.fit(
                model,
                methods.mask(model, method),
                train.Objective(classification.loss, examples, (16,), pad=1),
                config,
                seed=0,
            )

        native = run(1)
        padded = run(8)
        np.testing.assert_allclose(padded.losses, native.losses, rtol=1e-4)
        assert native.losses[-1] < native.losses[0]
        native_layers = methods.adapters(native.model)
        for path, layer in methods.adapters(padded.model).items():
            native_layer = native_layers[path]
            a = layer.lora_a[...]
            b = layer.lora_b[...]
            assert a.shape == (2, 16, 8)
            assert layer.parameters() == 2 * 3 * (16 + 16)
            assert native_layer.parameters() == layer.parameters()
            native_a = native_layer.lora_a[...]
            native_b = native_layer.lora_b[...]
            np.testing.assert_allclose(a[..., :3], native_a, atol=1e-4)
            np.testing.assert_allclose(b[:, :3], native_b, atol=1e-4)
            # What is padded stays zero.
            assert not a[..., 3:].any()
            assert not b[:, 3:].any()


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (
                dict(init="uniform"),
                "init: expected one of gaussian, kaiming_uniform, got 'uniform'",
            ),
            (
                dict(bias="some"),
                "bias: expected one of none, all, lora_only, got 'some'",
            ),
            (dict(dropout=1.0), "dropout: expected 0 <= dropout < 1, got 1.0"),
            (dict(rank=0), "rank: expected an integer >= 1, got 0"),
            (dict(rank=2.5), "rank: expected an integer >= 1, got 2.5"),
            (
                dict(rank={"query": 8, "value": -1}),
                "rank: expected an integer >= 1, got -1",
            ),
            (dict(alpha=0.0), "alpha: expected a number > 0, got 0.0"),
        ],
    )
    def test_of_options(self, options, text):
        with pytest.raises(ValueError) as caught:
            lora(**options)
        assert str(caught.value) == text

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (
                dict(targets="query,values"),
                "targets: 'values' matches no layer; there are: blocks/attention/value, ",
            ),
            (dict(targets="head"), "targets: 'head' matches no layer; there are: "),
            (
                dict(targets="(query"),
                "targets: expected layer names or a regex on paths, got '(query': missing )",
            ),
            (
                dict(rank=17),
                "rank: expected 1 <= rank <= 16 for blocks/attention/query (16 x 16), got 17",
            ),
            (
                dict(rank={"qeury": 4}),
                "rank: 'qeury' matches no layer; there are: blocks/attention/query, ",
            ),
            (
                dict(rank={"query": 4}),
                "rank: no pattern of query gives one for blocks/attention/value",
            ),
            (
                dict(alpha={"value": 4}),
                "alpha: no pattern of value gives one for blocks/attention/query",
            ),
            (
                dict(layers=(0, 2)),
                "layers: expected for blocks/attention/query indices in 0 … 1, got (0, 2)",
            ),
            (
                dict(layers=()),
                "layers: expected for blocks/attention/query indices in 0 … 1, got ()",
            ),
            (
                dict(targets="pooler", layers=(0,)),
                "layers: expected for pooler none, it is no layer of a stack, got (0,)",
            ),
        ],
    )
    def test_of_a_model_they_do_not_fit(self, tiny, options, text):
        with pytest.raises(ValueError) as caught:
            lora(**options).adapt(KEY, tiny())
        assert str(caught.value).startswith(text)


def test_a_flax_layer_of_another_dtype_is_adapted_in_float32():
    dtypes = {"param_dtype": jnp.bfloat16, "dtype": jnp.float32}
    layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0), **dtypes)
    adapted = lora("query", 2).adapt(KEY, {"query": layer})["query"]
    assert adapted.lora_a[...].dtype == jnp.float32
    assert adapted.merged().kernel[...].dtype == jnp.bfloat16
