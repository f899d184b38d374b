"""What a block keeps for its backward pass: by hand, and against jax's own list."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax._src.ad_checkpoint import saved_residuals

from lora_jax import methods, quant, tree
from lora_jax.accounting.step_memory import split_shapes
from lora_jax.nn import blocks, precision
from lora_jax.nn.attention import AttentionContext
from lora_jax.nn.engine import Engine
from lora_jax.nn.visibility import Visibility
from lora_jax.train.kept import (
    BlockSizes,
    activation_parts,
    block_kernels,
    block_sizes,
    chunk_layouts,
    merges_recomputation,
    saved_by_autodiff,
    saved_by_xla,
    saved_products,
)
from tests.accounting.encoders import METHODS, split_encoder
from tests.models import small_decoders

SMALL: Any = {"width": 16, "heads": 2, "ffn": 32}
LLAMA = small_decoders.LLAMA
ALL_OF_LLAMA = methods.lora("query,key,value,output,gate,up,down", 5)


def small_encoder(method: methods.Method) -> tuple[BlockSizes, dict[str, Any]]:
    """The sizes of a small encoder, and its trainable leaves by path."""
    split = split_encoder(method, "float32", **SMALL)
    return block_sizes(*split), tree.leaves(split[0])


def split_llama(method: methods.Method, compute_dtype: str = "float32") -> Any:
    return split_shapes(small_decoders.shapes(LLAMA), method, compute_dtype)


class TestSizes:
    def test_of_an_encoder(self):
        sizes, _ = small_encoder(methods.full())
        matrices = 4 * 16 * 16 + 2 * 16 * 32
        assert sizes == BlockSizes(2, 16, 16, 16, 2, 32, False, True, False, matrices)

    def test_of_grouped_queries_and_of_codes(self):
        model = small_decoders.shapes(LLAMA)
        nf4 = quant.find_spec("nf4")
        quantized = jax.eval_shape(
            lambda model: quant.quantize_model(model, nf4), model
        )
        # Query and output, key and value, and the three of the MLP.
        matrices = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24
        expected = BlockSizes(2, 16, 16, 8, 4, 24, True, False, True, matrices)
        for base in (model, quantized):
            split = tree.split(base, tree.mask(base, "norm"))
            assert block_sizes(*split) == expected


class TestByHand:
    SOFTMAX = 4 * (2 * 2 * 8 + 2 * 2)  # two of each score, two of each head

    def test_of_lora_on_query_and_value(self):
        sizes, leaves = small_encoder(methods.lora("query,value", 3))
        assert saved_by_autodiff(sizes, leaves, length=8) == {
            "query, key, value": 4 * 3 * 16,
            "softmax": self.SOFTMAX,
            "inputs of the norms": 4 * 2 * 16,
            "input of the activation": 4 * 32,
            "input of query, key, value": 4 * 16,
            "input of the attention's output": 0,
            "input of the MLP": 0,
            "output of the activation": 0,
            "between A and B": 4 * 2 * 3,
        }

    def test_of_full_fine_tuning(self):
        sizes, leaves = small_encoder(methods.full())
        assert saved_by_autodiff(sizes, leaves, length=8) == {
            "query, key, value": 4 * 3 * 16,
            "softmax": self.SOFTMAX,
            "inputs of the norms": 4 * 2 * 16,
            "input of the activation": 4 * 32,
            "input of query, key, value": 4 * 16,
            "input of the attention's output": 4 * 16,
            "input of the MLP": 4 * 16,
            "output of the activation": 4 * 32,
            "between A and B": 0,
        }

    def test_of_a_gate_and_grouped_queries_in_two_bytes(self):
        trainable, frozen = split_llama(ALL_OF_LLAMA)
        saved = saved_by_autodiff(
            block_sizes(trainable, frozen),
            tree.leaves(trainable),
            length=8,
            itemsize=2,
            attention="chunked",
        )
        assert saved["query, key, value"] == 2 * (16 + 2 * 8)
        assert saved["input of the activation"] == 2 * 5 * 24
        assert saved["output of the activation"] == 2 * 24
        assert saved["softmax"] == 0

    def test_cudnn_keeps_what_it_returns_and_a_number_a_head(self):
        sizes, leaves = small_encoder(methods.lora("query", 3))
        saved = saved_by_autodiff(sizes, leaves, length=8, attention="cudnn")
        assert saved["input of the attention's output"] == 4 * 16
        assert saved["softmax"] == 4 * 2


class TestXla:
    @pytest.mark.parametrize(
        ("method", "merged"),
        [
            (methods.lora("query,value", 3), [2 * 8, 2 * 16, 0, 0]),
            (methods.lora("up", 3), [2 * 8, 2 * 16, 0, 4 * 32]),
            (methods.full(), [2 * 8, 2 * 16, 2 * 16, 0]),
        ],
        ids=["attention", "up", "full"],
    )
    def test_by_hand(self, method, merged):
        sizes, leaves = small_encoder(method)
        saved = saved_by_xla(sizes, leaves, 8, merged=True)
        assert list(saved.values()) == [4 * count for count in merged]
        saved = saved_by_xla(sizes, leaves, 8, merged=False)
        assert saved == {"the softmax's divisors": 4 * 2 * 8}

    def test_a_gate_has_no_parts_and_both_products_of_adapted_layers(self):
        trainable, frozen = split_llama(ALL_OF_LLAMA)
        sizes = block_sizes(trainable, frozen)
        leaves = tree.leaves(trainable)
        saved = saved_by_xla(sizes, leaves, 8, merged=True)
        assert saved["the sigmoid's derivative"] == -4 * 24
        assert saved["products of adapters"] == 4 * 2 * 24
        assert activation_parts(sizes, leaves) == 0
        assert saved["the norms' centered inputs"] == 0

    def test_chunks_are_cut_and_transposed(self):
        encoder, _ = small_encoder(methods.full())
        assert chunk_layouts(encoder) == 4 * 3 * 16
        decoder = block_sizes(*split_llama(methods.full()))
        # Quarters of the keys are 1/4 + 2/4 + 3/4 of them, in two orders.
        assert chunk_layouts(decoder) == 4 * (16 + 2 * 8 + 3 * 2 * 8)

    def test_the_compiler_keeps_as_much_as_the_program_of_this_jax_lets_it(self):
        """Two layers of a checkpointed GELU, beside the same layers written out."""

        @jax.checkpoint
        def gelu(x):
            return 0.5 * x * jax.scipy.special.erfc(-0.7 * x)

        def layer(x, w):
            return gelu(x @ w) @ w

        def scanned(w, x):
            def step(x, _):
                return layer(x, w), None

            x = jax.lax.scan(step, x, None, length=4, unroll=4)[0]
            return (x**2).sum()

        def written_out(w, x):
            for _ in range(4):
                x = layer(x, w)
            return (x**2).sum()

        def temporary(loss):
            shapes = [
                jax.ShapeDtypeStruct(s, "float32") for s in ((512, 512), (2048, 512))
            ]
            compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
            analysis: Any = compiled.memory_analysis()
            return analysis.temp_size_in_bytes

        keeps_more = temporary(scanned) > temporary(written_out)
        assert merges_recomputation() == keeps_more


# No size of the models, so that they tell activations from weights.
ROWS, LENGTH = 3, 7
Split = tuple[Any, Any]


def kept_by_jax(split: Split, compute_dtype: str, engine: Engine) -> int:
    """The bytes with a row axis that jax keeps of the first block."""
    trainable, frozen = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype),
        (split[0].blocks, split[1].blocks),
    )
    sizes = block_sizes(*split)
    stop = jnp.full(ROWS, LENGTH)
    visibility = Visibility(stop=stop, first_query=0 if sizes.is_decoder else None)
    context = AttentionContext(visibility, engine=engine)

    def step(x, _index, block, _cache):
        x = block(x, context)
        return x if sizes.is_decoder else (x, None)

    def block(trainable, x):
        model = precision.cast_kernels(tree.merge(trainable, frozen), compute_dtype)
        stack = (model,)  # single blocks are looped over
        return blocks.scan_blocks(step, x, stack, remat=engine.remat)[0]

    x = jnp.zeros((ROWS, LENGTH, sizes.width), engine.activations)
    residuals: Any = saved_residuals(block, trainable, x)
    measured = 0
    for aval, _ in residuals:
        # One number a row is its length, which all blocks share.
        if aval.shape[:1] == (ROWS,) and aval.ndim > 1:
            measured += aval.size * aval.dtype.itemsize
    return measured


@pytest.mark.parametrize("name", METHODS)
def test_it_is_what_jax_says_an_encoder_s_block_keeps(name):
    split = split_encoder(METHODS[name])
    saved = saved_by_autodiff(block_sizes(*split), tree.leaves(split[0]), length=LENGTH)
    # Once, not in every block: a boolean and a float32 for each score.
    masked = 5 * ROWS * 4 * LENGTH**2
    expected = ROWS * LENGTH * sum(saved.values()) + masked
    assert kept_by_jax(split, "float32", Engine()) == expected


@pytest.mark.parametrize("compute_dtype", precision.COMPUTE_DTYPES)
@pytest.mark.parametrize("method", [methods.lora("query", 5), ALL_OF_LLAMA])
@pytest.mark.parametrize("attention", ["plain", "chunked"])
def test_it_is_what_jax_says_a_decoder_s_block_keeps(compute_dtype, method, attention):
    split = split_llama(method, compute_dtype)
    activations = precision.activation_dtype(compute_dtype)
    itemsize = jnp.dtype(activations).itemsize
    saved = saved_by_autodiff(
        block_sizes(*split),
        tree.leaves(split[0]),
        length=LENGTH,
        itemsize=itemsize,
        attention=attention,
    )
    once = 5 * ROWS * 4 * LENGTH**2
    if attention == "chunked":
        # Queries are cut into chunks of 64 [N, B, H, 64, K], which are no rows first.
        once = -ROWS * LENGTH * itemsize * 16
    expected = ROWS * LENGTH * sum(saved.values()) + once
    engine = Engine(activations=activations, attention=attention)
    assert kept_by_jax(split, compute_dtype, engine) == expected


@pytest.mark.parametrize("compute_dtype", precision.COMPUTE_DTYPES)
@pytest.mark.parametrize(
    "split",
    [
        partial(split_llama, ALL_OF_LLAMA),
        partial(split_llama, methods.full()),
        partial(split_encoder, METHODS["query,value"]),
    ],
    ids=["adapters", "full", "encoder"],
)
def test_it_is_what_jax_says_of_the_products_that_a_block_keeps(split, compute_dtype):
    model = split(compute_dtype)
    activations = precision.activation_dtype(compute_dtype)
    sizes = block_sizes(*model)
    numbers = saved_products(
        sizes,
        block_kernels(*model),
        tree.leaves(model[0]),
        activations=activations,
        products=precision.product_dtype(compute_dtype),
    )
    # With the block's input.
    itemsize = jnp.dtype(activations).itemsize
    expected = ROWS * LENGTH * itemsize * (sizes.width + numbers)
    engine = Engine(remat="products", activations=activations)
    assert kept_by_jax(model, compute_dtype, engine) == expected
