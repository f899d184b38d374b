"""LoRA against the paper's definition: where it starts, how it is scaled, what it adapts, what it says when it cannot."""

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


def trainable_paths(model, method) -> set[str]:
    return set(
        tree.leaves(tree.split(model, methods.mask(model, method, head=False))[0])
    )


class TestDefinition:
    """h = W0 x + (alpha / r) B A x."""

    def layer(self, **options):
        base = Linear(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0.5, 0.5]))
        return LoRA(
            base,
            jnp.array([[1.0], [1.0]]),
            jnp.array([[1.0, -1.0]]),
            jnp.array([3.0]),
            **options,
        )

    def test_by_hand(self):
        x = jnp.array([1.0, 1.0])  # W0 x = (4, 6), A x = 2, times 3, B gives (6, -6)
        assert self.layer()(x).tolist() == [10.5, 0.5]
        assert self.layer().delta().tolist() == [[3, -3], [3, -3]]
        assert self.layer().merged().kernel[...].tolist() == [[4, -1], [6, 1]]
        assert self.layer().merged()(x).tolist() == [10.5, 0.5]

    def test_embedding_by_hand(self):
        base = Embedding(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        layer = LoRAEmbedding(
            base, jnp.array([[0.0], [2.0]]), jnp.array([[1.0, -1.0]]), jnp.array([0.5])
        )
        assert layer(jnp.array([1, 0])).tolist() == [[4, 3], [1, 2]]
        assert layer.merged()(jnp.array([1, 0])).tolist() == [[4, 3], [1, 2]]

    def test_is_computed_in_the_dtype_of_its_input(self):
        assert self.layer()(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
        half = tree.replace(
            self.layer(), {"base/kernel": jnp.ones((2, 2), jnp.bfloat16)}
        )
        assert half.merged().kernel[...].dtype == jnp.bfloat16

    def test_dropout_is_of_its_own_input_and_only_with_a_key(self):
        base, eye = Linear(jnp.full((64, 64), 2.0)), jnp.eye(64)
        layer = LoRA(base, eye, eye, jnp.ones(64), rate=0.5)
        x = jnp.arange(1.0, 65.0)
        np.testing.assert_allclose(layer(x), base(x) + x)
        low = (layer(x, KEY) - base(x)) / x
        assert set(np.asarray(low).round(3).tolist()) == {0.0, 2.0}
        assert 16 < int((low == 0).sum()) < 48
        assert not np.array_equal(layer(x, KEY), layer(x, jax.random.key(1)))

    def test_dropout_reaches_the_model_s_layers_in_training(self, tiny, batch):
        step = {"loss": classification.loss, "config": train.StepConfig()}
        model = lora(rank=2, dropout=0.5).adapt(KEY, tiny())
        model = tree.replace(
            model,
            {p: jnp.ones_like(leaf) for p, leaf in tree.find(model, "lora_b$").items()},
        )
        parts = tree.split(model, methods.mask(model, lora()))
        options = {"xla_backend_optimization_level": 0}  # half the time to compile
        gradient = jax.jit(
            train.gradient, static_argnames=tuple(step), compiler_options=options
        )
        losses = [
            float(gradient(*parts, batch, jax.random.key(seed), **step)[0])
            for seed in (0, 0, 1)
        ]
        assert losses[0] == losses[1] != losses[2]


class TestInit:
    def test_gaussian_has_variance_one_over_three_inputs(self, wide):
        a = lora().adapt(KEY, wide)["query"].lora_a[...]
        assert a.shape == (1000, 8)
        assert (
            stats.kstest(np.ravel(a), stats.norm(0, (3 * 1000) ** -0.5).cdf).pvalue
            > 0.01
        )

    def test_kaiming_uniform_fills_the_bound_of_the_official_code(self, wide):
        a = np.ravel(lora(init="kaiming_uniform").adapt(KEY, wide)["query"].lora_a[...])
        bound = 1000**-0.5
        assert stats.kstest(a, stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01
        assert 0.99 * bound < np.abs(a).max() <= bound

    def test_b_is_zero(self, wide):
        assert not lora().adapt(KEY, wide)["query"].lora_b[...].any()

    def test_an_embedding_has_them_the_other_way_round(self, wide):
        layer = lora("tokens").adapt(KEY, wide)["tokens"]
        assert layer.lora_a.shape == (1000, 8) and not layer.lora_a[...].any()
        assert stats.kstest(np.ravel(layer.lora_b[...]), stats.norm.cdf).pvalue > 0.01

    def test_stacked_layers_are_of_their_own_inputs_and_differ(self):
        model = lora("query").adapt(
            KEY, {"query": Linear(np.zeros((3, 400, 100), np.float32))}
        )
        a = np.asarray(model["query"].lora_a[...])
        assert (
            stats.kstest(a.ravel(), stats.norm(0, (3 * 400) ** -0.5).cdf).pvalue > 0.01
        )
        assert (a[0] == a[1]).mean() < 0.01

    def test_is_a_function_of_key_path_and_rank_alone(self, wide):
        def query(key=KEY, targets="query", **options):
            return np.asarray(
                lora(targets, **options).adapt(key, wide)["query"].lora_a[...]
            )

        assert np.array_equal(
            query(), query(targets="value,query,tokens", alpha=3.0, bias="all")
        )
        assert not np.array_equal(query(), query(jax.random.key(1)))
        both = lora().adapt(KEY, wide)
        assert not np.array_equal(both["query"].lora_a[...], both["value"].lora_a[...])
        few, many = query(rank=4), query(rank=8)
        overlap = np.linalg.qr(few)[0].T @ np.linalg.qr(many)[0]
        assert (
            np.linalg.norm(overlap, 2) < 0.3
        )  # directions shared by construction would give 1


class TestScale:
    @pytest.mark.parametrize(
        "rank, alpha, stabilized, scale",
        [(8, 16.0, False, 2), (4, 6.0, False, 1.5), (4, 6.0, True, 3)],
    )
    def test_is_alpha_over_r_or_its_root(self, wide, rank, alpha, stabilized, scale):
        model = lora("query", rank, alpha, rank_stabilized=stabilized).adapt(KEY, wide)
        assert model["query"].scale[...].tolist() == [scale] * rank

    def test_first_pattern_that_matches_gives_rank_and_alpha(self, tiny):
        method = lora(
            "query,value,up",
            rank={"query": 2, "attention/.*": 4, ".": 3},
            alpha={"up": 6.0, r"attention/\w+$": 8.0},
        )
        blocks = method.adapt(KEY, tiny()).blocks
        found = {
            name: (layer.lora_a.shape[-1], float(layer.scale[...][0, 0]))
            for name, layer in (
                ("query", blocks.attention.query),
                ("value", blocks.attention.value),
                ("up", blocks.mlp.up),
            )
        }
        assert found == {"query": (2, 4.0), "value": (4, 2.0), "up": (3, 2.0)}

    def test_chosen_layers_alone_have_a_scale(self):
        stack = {"query": Linear(np.zeros((6, 4, 4), np.float32))}
        method = lora("query", 2, 2.0, layers=(0, 5))
        model = method.adapt(KEY, stack)
        assert model["query"].scale[...].tolist() == [
            [1, 1],
            [0, 0],
            [0, 0],
            [0, 0],
            [0, 0],
            [1, 1],
        ]
        assert methods.counts(model, method).adapter == 2 * 2 * (4 + 4)
        learned = tree.replace(model, {"query/lora_b": jnp.ones((6, 2, 4))})
        assert learned["query"].delta().any(axis=(1, 2)).tolist() == [
            True,
            False,
            False,
            False,
            False,
            True,
        ]


class TestTargets:
    @pytest.mark.parametrize(
        "pattern, wanted",
        [
            ("query,value", {"attention/query", "attention/value"}),
            ("key, up", {"attention/key", "mlp/up"}),
            ("attention/output", {"attention/output"}),
            (r"mlp/|key$", {"mlp/up", "mlp/down", "attention/key"}),
        ],
    )
    def test_by_name_or_regex(self, tiny, pattern, wanted):
        found = methods.adapters(lora(pattern, 2).adapt(KEY, tiny()))
        assert {path.removeprefix("blocks/") for path in found} == wanted

    @pytest.mark.parametrize("pattern", ["output", "output$", "."])
    def test_the_head_is_never_adapted(self, tiny, pattern):
        model = tiny("roberta")
        found = methods.targets(model, pattern)
        assert "blocks/attention/output" in found and not any(
            path.startswith("head") for path in found
        )
        assert {"head/dense/kernel", "head/output/kernel"} <= set(tree.leaves(model))

    def test_names_are_whole(self, wide):
        with pytest.raises(
            ValueError, match="'uery' matches no layer; there are: query"
        ):
            lora("uery").adapt(KEY, wide)

    def test_only_adapters_learn_and_the_biases_asked_for(self, tiny):
        paths = {
            bias: trainable_paths(
                lora("query", 2, bias=bias).adapt(KEY, tiny()), lora(bias=bias)
            )
            for bias in ("none", "lora_only", "all")
        }
        query = "blocks/attention/query/"
        assert paths["none"] == {query + "lora_a", query + "lora_b"}
        assert paths["lora_only"] == paths["none"] | {query + "base/bias"}
        every = {
            path
            for path in tree.leaves(lora("query", 2).adapt(KEY, tiny()))
            if path.endswith("bias")
        }
        assert paths["all"] == paths["none"] | {
            path for path in every if not path.startswith("head/")
        }


class TestPadding:
    def test_target_sets_with_idle_adapters_beside_are_alike_to_a_compiler(self, tiny):
        few, many = (
            lora(names, 2, rank_multiple=4, idle_targets="query,value,up")
            for names in ("query", "query,value")
        )
        one, two = (method.adapt(KEY, tiny()) for method in (few, many))
        assert jax.tree.structure(one) == jax.tree.structure(two)
        assert jax.tree.map(jnp.shape, jax.tree.leaves(one)) == jax.tree.map(
            jnp.shape, jax.tree.leaves(two)
        )
        assert (
            methods.counts(one, few).adapter
            == methods.counts(lora("query", 2).adapt(KEY, tiny()), few).adapter
        )
        idle = tree.replace(one.blocks.mlp.up, {"lora_b": jnp.ones((2, 4, 32))})
        assert not idle.delta().any()

    def test_a_padded_rank_learns_as_the_native_one(self, tiny, examples):
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

        native, padded = run(1), run(8)
        np.testing.assert_allclose(padded.losses, native.losses, rtol=1e-4)
        assert native.losses[-1] < native.losses[0]
        for path, layer in methods.adapters(padded.model).items():
            own = methods.adapters(native.model)[path]
            assert layer.lora_a.shape == (
                2,
                16,
                8,
            ) and layer.parameters() == own.parameters() == 2 * 3 * (16 + 16)
            np.testing.assert_allclose(
                layer.lora_a[..., :3], own.lora_a[...], atol=1e-4
            )
            np.testing.assert_allclose(layer.lora_b[:, :3], own.lora_b[...], atol=1e-4)
            assert not layer.lora_a[..., 3:].any() and not layer.lora_b[:, 3:].any()


class TestErrors:
    @pytest.mark.parametrize(
        "options, text",
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
        "options, text",
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
    model = {
        "query": nnx.Linear(
            4, 4, param_dtype=jnp.bfloat16, dtype=jnp.float32, rngs=nnx.Rngs(0)
        )
    }
    adapted = lora("query", 2).adapt(KEY, model)
    assert adapted["query"].lora_a[...].dtype == jnp.float32
    assert adapted["query"].merged().kernel[...].dtype == jnp.bfloat16
