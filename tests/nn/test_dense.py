"""Training on a quantised base: the same as on its dequantised one, with no matrix of full precision outliving its layer."""

import functools
import re
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import data, methods, quant, train, tree
from lora_jax.checkpoints import placement
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models import bert
from lora_jax.nn.dense import dense
from lora_jax.nn.layers import Embedding
from lora_jax.quant import Spec
from lora_jax.train import classification

LORA = methods.lora(rank=4)
CONFIG = train.TrainConfig(learning_rate=0.02, epochs=1, batch=8)
KINDS = ["nf4", "nf4_double", "fp4", "int4", "int4_affine", "int8"]
compiled = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # half the time to compile


@pytest.fixture(scope="module")
def adapted(tiny):
    """`adapted(kind)`: a tiny model with adapters that are not at their start, on a base of that kind."""

    @functools.cache
    def make(kind: str | None = "nf4", **changes: Any) -> Any:
        model = tiny("bert", 3, **changes)
        model = LORA.adapt(
            jax.random.key(1), quant.quantize_model(model, kind) if kind else model
        )
        b = {
            p: leaf + 0.1
            for p, leaf in tree.leaves(model).items()
            if p.endswith("lora_b")
        }
        return tree.replace(model, b)

    return make


def forward(model: Any, batch: data.Batch) -> jax.Array:
    return model(batch.tokens, batch.segments, batch.length)


logits = compiled(forward)


@compiled
def gradient(trainable: Any, frozen: Any, batch: data.Batch) -> Any:
    key = jax.random.key(0)
    step = {"loss": classification.loss, "config": train.StepConfig()}
    return train.gradient(trainable, frozen, batch, key, **step)[1]


class TestDense:
    @pytest.mark.parametrize("kind", ["nf4", "int8"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_it_is_the_product_with_the_dequantised_matrix_and_so_is_its_gradient(
        self, kind, dtype
    ):
        rng = np.random.default_rng(0)
        x, w = (
            rng.normal(size=(5, 3, 64)).astype(np.float32),
            rng.normal(size=(64, 32)).astype(np.float32),
        )
        kernel = quant.quantize(jnp.asarray(w.T), kind).T.astype(dtype)
        plain = kernel.dequantize()
        assert plain.shape == kernel.shape == (64, 32) and plain.dtype == dtype

        def total(x, kernel):
            return jnp.sum(dense(x, kernel) ** 2)

        np.testing.assert_allclose(
            dense(x, kernel), dense(x, plain), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(
            jax.grad(total)(x, kernel), jax.grad(total)(x, plain), rtol=1e-5, atol=1e-5
        )

    def test_the_base_gets_no_gradient(self):
        kernel = quant.quantize(jnp.ones((32, 32)), "nf4")
        ours = jax.grad(
            lambda scales: dense(
                jnp.ones((2, 32)), replace(kernel, scales=scales)
            ).sum()
        )
        assert not np.any(ours(kernel.scales)), "what a scale would get is not computed"

    def test_rows_of_a_quantised_embedding(self, tiny):
        table = jnp.asarray(np.random.default_rng(0).normal(size=(50, 64)), jnp.float32)
        for block in (32, 64, 128):  # of two, one, and half a row
            value = quant.quantize(table, "nf4", block=block)
            tokens = jnp.array([[3, 0, 3], [49, 7, 1]])
            rows = Embedding(value)(tokens)
            np.testing.assert_array_equal(rows, value.dequantize()[tokens])


class TestTraining:
    @pytest.mark.parametrize("kind", ["nf4_double", "int4_affine", "int8"])
    def test_it_is_the_training_on_the_dequantised_base(self, kind, adapted, batch):
        model = adapted(kind)
        plain = quant.dequantize_model(model)
        assert (
            not quant.quantized_leaves(plain)
            and len(quant.quantized_leaves(model)) == 6
        )
        np.testing.assert_allclose(
            logits(model, batch), logits(plain, batch), rtol=2e-4, atol=2e-5
        )
        trees = [tree.split(each, methods.mask(each, LORA)) for each in (model, plain)]
        ours, theirs = (tree.leaves(gradient(*each, batch)) for each in trees)
        assert ours.keys() == theirs.keys()
        for path in ours:
            np.testing.assert_allclose(
                ours[path], theirs[path], rtol=2e-3, atol=1e-5, err_msg=path
            )

    def test_it_learns_and_leaves_the_base_as_it_is(self, adapted, examples, same):
        model = adapted("nf4_double")
        before = jax.tree.map(np.array, quant.quantized_leaves(model))
        done = train.fit(
            model,
            methods.mask(model, LORA),
            train.Objective(classification.loss, examples, (16,), pad=1),
            replace(CONFIG, epochs=8, compute_dtype="bfloat16"),
            seed=0,
        )
        assert done.losses[-4:].mean() < 0.7 * done.losses[:4].mean()
        assert same(jax.tree.map(np.array, quant.quantized_leaves(done.model)), before)

    def test_a_base_in_bits_cannot_learn(self, tiny):
        model = quant.quantize_model(tiny(), "nf4")
        with pytest.raises(
            ValueError,
            match=r"full: expected to train floating-point weights, got .*blocks/.*kernel",
        ):
            methods.mask(model, methods.full())
        assert methods.mask(model, methods.bitfit()) is not None

    def test_counts_are_those_of_the_plain_model(self, adapted):
        plain, model = adapted(None), adapted("int4")
        assert tree.count(model) == tree.count(plain)
        assert methods.counts(model, LORA) == methods.counts(plain, LORA)


SHAPES = {"layers": 6, "width": 64, "ffn": 256}


def loops(jaxpr: Any) -> list[Any]:
    """All scans of a jaxpr, however deep."""
    found = []
    for equation in jaxpr.eqns:
        found += [equation] if equation.primitive.name == "scan" else []
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda p: hasattr(p, "jaxpr") or hasattr(p, "eqns")
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                found += loops(getattr(inner, "jaxpr", inner))
    return found


class TestOneLayerAtATime:
    """Nothing of a full-precision matrix's shape leaves the loop over layers, and the step has room for one layer's."""

    def step(self, model: Any, rows: int = 6, length: int = 10) -> Any:
        trainable, frozen = tree.split(model, methods.mask(model, LORA))
        full = np.full
        batch = data.Batch(
            full((rows, length), 3, np.int32),
            full((rows, length), 0, np.int32),
            full(rows, length, np.int32),
            full(rows, 1, np.int32),
            full(rows, 1, np.float32),
            np.arange(rows, dtype=np.int32),
        )
        rest = batch, jnp.float32(0.01), jax.random.key(0)
        return train.train_step.trace(
            trainable,
            train.optimizer(train.StepConfig()).init(trainable),
            frozen,
            *rest,
            loss=classification.loss,
            config=train.StepConfig(),
        )

    def leaving(self, model: Any) -> set[tuple[int, ...]]:
        """Shapes of matrices, either way round, among what the loops of a training step give to what follows."""
        shapes = {
            leaf.shape[-2:] for path, leaf in tree.find(model, quant.BODY).items()
        }
        every = loops(self.step(model).jaxpr.jaxpr)
        assert len(every) == 2, "one forward, one backward"
        given = {
            variable.aval.shape[-2:] for loop in every for variable in loop.outvars
        }
        return given & (shapes | {shape[::-1] for shape in shapes})

    def test_no_matrix_leaves_the_loop(self, adapted, monkeypatch):
        model = adapted("nf4", **SHAPES)
        assert not self.leaving(model)
        monkeypatch.setattr(
            "lora_jax.nn.dense._quantized_product",
            lambda x, kernel: x @ kernel.dequantize(),
        )
        jax.clear_caches()  # of the traced step
        assert self.leaving(model) == {(64, 64), (64, 256), (256, 64)}, (
            "as autodiff would have it, they do"
        )
        jax.clear_caches()

    def test_the_compiled_step_needs_no_more_than_that_of_a_float_base_and_a_layer(
        self, adapted
    ):
        sizes = {}
        for kind in ("nf4", None):
            model = adapted(kind, **SHAPES)
            sizes[kind] = (
                self.step(model).lower().compile().memory_analysis().temp_size_in_bytes
            )
        one_layer = 4 * (4 * 64 * 64 + 2 * 64 * 256)
        assert sizes["nf4"] <= sizes[None] + one_layer


class TestMerge:
    def test_into_the_dequantised_weights_is_the_same_function(self, adapted, batch):
        model = adapted("nf4")
        merged = methods.merge(model)
        assert not methods.adapters(merged)
        np.testing.assert_allclose(
            logits(merged, batch), logits(model, batch), rtol=1e-3, atol=1e-4
        )
        assert "blocks/attention/key/kernel" in quant.quantized_leaves(merged), (
            "what has no adapter stays in bits"
        )

    def test_into_the_original_weights_adds_delta_to_them(self, adapted, tiny):
        model, original = adapted("nf4"), tiny("bert", 3)
        merged = methods.merge(model, into="original", original=original)
        assert not quant.quantized_leaves(merged)
        path = "blocks/attention/query"
        expected = (
            tree.leaves(original)[f"{path}/kernel"]
            + methods.adapters(model)[path].delta()
        )
        np.testing.assert_array_equal(tree.leaves(merged)[f"{path}/kernel"], expected)
        same = "blocks/attention/key/kernel"
        np.testing.assert_array_equal(
            tree.leaves(merged)[same], tree.leaves(original)[same]
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_quantised_again_it_is_stored_as_the_base_was(self, kind, adapted):
        model = adapted(kind)
        merged, plain = (
            methods.merge(model, into=into) for into in ("requantized", "dequantized")
        )
        base, found = (
            quant.quantized_leaves(methods.unload(model)),
            quant.quantized_leaves(merged),
        )
        assert jax.tree.structure(found) == jax.tree.structure(base)
        path = "blocks/attention/value/kernel"
        again = quant.FORMATS[kind](path, tree.leaves(plain)[path])
        np.testing.assert_array_equal(found[path].codes, again.codes)

    def test_errors(self, adapted, tiny):
        with pytest.raises(
            ValueError,
            match="into: expected one of dequantized, original, requantized, got 'base'",
        ):
            methods.merge(adapted(), into="base")
        with pytest.raises(
            ValueError,
            match=r"original: expected the model before.*kernel is quantized \(2, 16, 16\)",
        ):
            methods.merge(
                adapted(), into="original", original=methods.unload(adapted())
            )
        with pytest.raises(
            ValueError, match=r"kernel is \(6, 16, 16\), not \(2, 16, 16\)"
        ):
            methods.merge(
                adapted(), into="original", original=tiny("bert", 3, layers=6)
            )
        with pytest.raises(
            ValueError, match="original: expected with into='original' and only there"
        ):
            methods.merge(adapted(), into="original")
        with pytest.raises(
            ValueError,
            match=r"expected the model before it was quantized.*no blocks/attention/query/kernel",
        ):
            methods.merge(adapted(), into="original", original=adapted(None))


class TestLoading:
    def test_tensor_by_tensor_is_the_whole_model_quantised(self, tiny, config, same):
        model = tiny("bert", 3)
        rules, abstract = bert.rules(config("bert")), tree.leaves(model)
        source = {}
        for name, path in (
            ("query", "attention/query"),
            ("key", "attention/key"),
            ("value", "attention/value"),
        ):
            for layer, kernel in enumerate(
                np.asarray(abstract[f"blocks/{path}/kernel"])
            ):
                stored = kernel.T
                source[f"encoder.layer.{layer}.attention.self.{name}.weight"] = Tensor(
                    "here", stored.shape, stored.dtype, lambda stored=stored: stored
                )
        wanted = {
            path: leaf
            for path, leaf in abstract.items()
            if re.search(r"(query|key|value)/kernel", path)
        }
        how = Spec("nf4", block=32, double=True)
        loaded = placement.load(source, rules, wanted, convert=how)
        assert same(loaded, {path: how(path, leaf) for path, leaf in wanted.items()})

    def test_what_cannot_be_quantised_is_named(self, tiny):
        model = tiny()
        path = "blocks/mlp/up/kernel"
        model = tree.replace(
            model, {path: tree.leaves(model)[path].at[1, 2, 3].set(jnp.nan)}
        )
        with pytest.raises(
            ValueError,
            match=f"{path}: expected finite weights, got 1 that are NaN or infinite",
        ):
            quant.quantize_model(model, "nf4")
