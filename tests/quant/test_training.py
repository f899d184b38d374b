"""Training on a quantized base: as on its dequantized one, one layer at a time."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import data, methods, quant, train, tree
from lora_jax.train import classification

LORA = methods.lora(rank=4)
CONFIG = train.TrainConfig(learning_rate=0.02, epochs=1, batch=8)
STEP = {"loss": classification.loss, "config": train.StepConfig()}

# Half the time to compile.
compiled = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 0},
)


@pytest.fixture(scope="module")
def adapted(tiny):
    """`adapted(format)`: a tiny model, its base in that format, with moved adapters."""

    @functools.cache
    def make(format: str | None = "nf4", **changes: Any) -> Any:
        model = tiny("bert", 3, **changes)
        if format is not None:
            model = quant.quantize_model(model, format)
        model = LORA.adapt(jax.random.key(1), model)
        # B starts at 0, where an adapter does nothing.
        moved = {}
        for path, leaf in tree.leaves(model).items():
            if path.endswith("lora_b"):
                moved[path] = leaf + 0.1
        return tree.replace(model, moved)

    return make


@compiled
def logits(model: Any, batch: data.Batch) -> jax.Array:
    return model(batch.tokens, batch.segments, batch.length)


@compiled
def gradient(model: Any, batch: data.Batch) -> dict[str, jax.Array]:
    trainable, frozen = tree.split(model, methods.mask(model, LORA))
    key = jax.random.key(0)
    _, gradients = train.gradient(trainable, frozen, batch, key, **STEP)
    return tree.leaves(gradients)


class TestTraining:
    @pytest.mark.parametrize("format", ["nf4_double", "int4_affine", "int8"])
    def test_it_is_the_training_on_the_dequantized_base(self, format, adapted, batch):
        model = adapted(format)
        plain = quant.dequantize_model(model)
        assert len(quant.quantized_leaves(model)) == 6
        assert not quant.quantized_leaves(plain)
        np.testing.assert_allclose(
            logits(model, batch),
            logits(plain, batch),
            rtol=2e-4,
            atol=2e-5,
        )

        gradients = gradient(model, batch)
        expected = gradient(plain, batch)
        assert gradients.keys() == expected.keys()
        for path, leaf in gradients.items():
            np.testing.assert_allclose(
                leaf,
                expected[path],
                rtol=2e-3,
                atol=1e-5,
                err_msg=path,
            )

    def test_the_loss_falls_and_the_base_stays_as_it_is(self, adapted, examples, same):
        model = adapted("nf4_double")
        base = jax.tree.map(np.array, quant.quantized_leaves(model))
        done = train.fit(
            model,
            methods.mask(model, LORA),
            train.Objective(classification.loss, examples, (16,), pad=1),
            replace(CONFIG, epochs=8, compute_dtype="bfloat16"),
            seed=0,
        )
        first_loss = done.losses[:4].mean()
        last_loss = done.losses[-4:].mean()
        assert last_loss < 0.7 * first_loss
        trained_base = quant.quantized_leaves(done.model)
        assert same(jax.tree.map(np.array, trained_base), base)

    def test_a_quantized_base_cannot_be_trained(self, tiny):
        model = quant.quantize_model(tiny(), "nf4")
        message = (
            r"full: expected to train floating-point weights, got .*blocks/.*kernel"
        )
        with pytest.raises(ValueError, match=message):
            methods.mask(model, methods.full())
        assert methods.mask(model, methods.bitfit()) is not None

    def test_counts_are_those_of_the_plain_model(self, adapted):
        plain = adapted(None)
        model = adapted("int4")
        assert tree.count(model) == tree.count(plain)
        assert methods.counts(model, LORA) == methods.counts(plain, LORA)


SHAPES = {"layers": 6, "width": 64, "ffn": 256}


class TestOneLayerAtATime:
    """No full-precision matrix leaves the loop over layers; there is room for one."""

    def test_no_matrix_leaves_the_loop(self, adapted, monkeypatch):
        model = adapted("nf4", **SHAPES)
        assert not matrices_leaving_loops(model)

        # With the gradient that autodiff derives they do.
        def plain_product(x, kernel):
            return x @ kernel.dequantize()

        product = "lora_jax.nn.dense._quantized_product"
        monkeypatch.setattr(product, plain_product)
        jax.clear_caches()  # of the traced step
        expected = {(64, 64), (64, 256), (256, 64)}
        assert matrices_leaving_loops(model) == expected
        jax.clear_caches()

    def test_the_step_needs_at_most_one_layer_more_than_on_a_float_base(self, adapted):
        quantized_base = temporary_bytes(adapted("nf4", **SHAPES))
        float_base = temporary_bytes(adapted(None, **SHAPES))
        # Four matrices of attention and two of the MLP, in float32.
        one_layer = 4 * (4 * 64 * 64 + 2 * 64 * 256)
        assert quantized_base <= float_base + one_layer


def trace_step(model: Any) -> Any:
    """Return the traced training step on 6 rows of 10 tokens."""
    rows, length = 6, 10
    batch = data.Batch(
        tokens=np.full((rows, length), 3, np.int32),
        segments=np.zeros((rows, length), np.int32),
        length=np.full(rows, length, np.int32),
        label=np.full(rows, 1, np.int32),
        weight=np.full(rows, 1, np.float32),
        index=np.arange(rows, dtype=np.int32),
    )
    trainable, frozen = tree.split(model, methods.mask(model, LORA))
    optimizer = train.optimizer(train.StepConfig())
    return train.train_step.trace(
        trainable,
        optimizer.init(trainable),
        frozen,
        batch,
        jnp.float32(0.01),
        jax.random.key(0),
        **STEP,
    )


def temporary_bytes(model: Any) -> int:
    compiled_step = trace_step(model).lower().compile()
    return compiled_step.memory_analysis().temp_size_in_bytes


def matrices_leaving_loops(model: Any) -> set[tuple[int, ...]]:
    """Return the shapes of kernels, either way round, among the loops' outputs."""
    shapes = set()
    for kernel in tree.find(model, quant.BODY).values():
        rows, columns = kernel.shape[-2:]
        shapes |= {(rows, columns), (columns, rows)}

    scans = find_scans(trace_step(model).jaxpr.jaxpr)
    assert len(scans) == 2, "one forward, one backward"
    outputs = set()
    for scan in scans:
        for variable in scan.outvars:
            outputs.add(variable.aval.shape[-2:])
    return outputs & shapes


def find_scans(jaxpr: Any) -> list[Any]:
    """Return all scans of a jaxpr, those inside other equations too."""
    scans = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            scans.append(equation)
        parameters = jax.tree.leaves(equation.params, is_leaf=is_jaxpr)
        for parameter in filter(is_jaxpr, parameters):
            # A closed jaxpr holds the open one.
            inner = getattr(parameter, "jaxpr", parameter)
            scans += find_scans(inner)
    return scans


def is_jaxpr(parameter: Any) -> bool:
    return hasattr(parameter, "jaxpr") or hasattr(parameter, "eqns")


class TestMerge:
    QUERY = "blocks/attention/query"
    VALUE_KERNEL = "blocks/attention/value/kernel"
    KEY_KERNEL = "blocks/attention/key/kernel"  # has no adapter

    def test_into_the_dequantized_weights_it_is_the_same_function(self, adapted, batch):
        model = adapted("nf4")
        merged = methods.merge(model)
        assert not methods.adapters(merged)
        assert self.KEY_KERNEL in quant.quantized_leaves(merged)
        np.testing.assert_allclose(
            logits(merged, batch),
            logits(model, batch),
            rtol=1e-3,
            atol=1e-4,
        )

    def test_into_the_original_weights_it_adds_delta_to_them(self, adapted, tiny):
        model = adapted("nf4")
        original = tiny("bert", 3)
        merged = methods.merge(model, into="original", original=original)
        assert not quant.quantized_leaves(merged)

        merged_leaves = tree.leaves(merged)
        original_leaves = tree.leaves(original)
        delta = methods.adapters(model)[self.QUERY].delta()
        query_kernel = f"{self.QUERY}/kernel"
        np.testing.assert_array_equal(
            merged_leaves[query_kernel],
            original_leaves[query_kernel] + delta,
        )
        np.testing.assert_array_equal(
            merged_leaves[self.KEY_KERNEL],
            original_leaves[self.KEY_KERNEL],
        )

    @pytest.mark.parametrize(
        "format", ["nf4", "nf4_double", "fp4", "int4", "int4_affine", "int8"]
    )
    def test_requantized_it_is_stored_as_the_base_was(self, format, adapted):
        model = adapted(format)
        base = quant.quantized_leaves(methods.unload(model))
        merged = methods.merge(model, into="requantized")
        values = quant.quantized_leaves(merged)
        assert jax.tree.structure(values) == jax.tree.structure(base)

        path = self.VALUE_KERNEL
        plain = tree.leaves(methods.merge(model, into="dequantized"))
        expected = quant.FORMATS[format](path, plain[path])
        np.testing.assert_array_equal(values[path].codes, expected.codes)

    def test_an_unknown_way_is_an_error(self, adapted):
        ways = "dequantized, original, requantized"
        message = f"into: expected one of {ways}, got 'base'"
        with pytest.raises(ValueError, match=message):
            methods.merge(adapted(), into="base")

    def test_the_original_has_to_be_given(self, adapted):
        message = "original: expected with into='original' and only there"
        with pytest.raises(ValueError, match=message):
            methods.merge(adapted(), into="original")

    def test_the_original_must_not_be_quantized(self, adapted):
        base = methods.unload(adapted())
        message = r"expected the model before.*kernel is quantized \(2, 16, 16\)"
        with pytest.raises(ValueError, match=message):
            methods.merge(adapted(), into="original", original=base)

    def test_the_original_must_have_the_same_shapes(self, adapted, tiny):
        larger = tiny("bert", 3, layers=6)
        message = r"kernel is \(6, 16, 16\), not \(2, 16, 16\)"
        with pytest.raises(ValueError, match=message):
            methods.merge(adapted(), into="original", original=larger)

    def test_the_original_must_have_no_adapters(self, adapted):
        message = r"before it was quantized.*no blocks/attention/query/kernel"
        with pytest.raises(ValueError, match=message):
            methods.merge(adapted(), into="original", original=adapted(None))
