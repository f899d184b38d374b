"""Every layer is run once and in its order, in each of the three forms of blocks."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lora_jax import quant
from lora_jax.nn.blocks import (
    UNROLL,
    Stacks,
    join_stacks,
    layer_count,
    scan_blocks,
    should_unroll,
    split_stacks,
    stacks,
    without_last,
)
from lora_jax.nn.layers import Linear

# Three layers that multiply by 1, 2 and 3, in each of the forms.
STACK = Linear(jnp.arange(1.0, 4.0)[:, None, None])


def part(start, stop):
    return jax.tree.map(lambda leaf: leaf[start:stop], STACK)


def single(index):
    return jax.tree.map(lambda leaf: leaf[index], STACK)


TWO_STACKS = Stacks(part(0, 1), part(1, 3))
TUPLE = (single(0), single(1), single(2))


def step(x, index, block, cache):
    output = None if cache is None else cache + index
    return block(x) + index, output


class TestScanBlocks:
    # 1 * 1 + 0, then 1 * 2 + 1, then 3 * 3 + 2
    RESULT = 11

    @pytest.mark.parametrize("unroll", [False, True])
    @pytest.mark.parametrize("blocks", [STACK, TWO_STACKS], ids=["one", "two"])
    def test_every_layer_of_stacks_with_its_index_and_cache(self, blocks, unroll):
        caches = jnp.array([10, 20, 30])
        x, outputs = scan_blocks(step, jnp.ones(1), blocks, caches, unroll=unroll)
        assert x.tolist() == [self.RESULT]
        assert outputs.tolist() == [10, 21, 32]

    def test_every_layer_of_a_tuple_with_its_index_and_cache(self):
        x, outputs = scan_blocks(step, jnp.ones(1), TUPLE, (10, 20, 30))
        assert x.tolist() == [self.RESULT]
        assert outputs == (10, 21, 32)

    @pytest.mark.parametrize("blocks", [STACK, TWO_STACKS, TUPLE])
    def test_without_caches(self, blocks):
        x, _ = scan_blocks(step, jnp.ones(1), blocks)
        assert x.tolist() == [self.RESULT]


@pytest.mark.parametrize("blocks", [STACK, TWO_STACKS, TUPLE])
def test_three_layers_are_counted(blocks):
    assert layer_count(blocks) == 3


@pytest.mark.parametrize("blocks", [STACK, TWO_STACKS, TUPLE])
def test_the_last_layer_is_taken_off(blocks):
    others, last = without_last(blocks)
    assert layer_count(others) == 2
    assert type(others) is type(blocks)
    assert last.kernel[...].tolist() == [[3]]


def test_stacks_in_order():
    assert stacks(STACK) == (STACK,)
    assert stacks(TWO_STACKS) == (TWO_STACKS.first, TWO_STACKS.last)


class Model(nnx.Module):
    def __init__(self, blocks):
        self.blocks = blocks


class TestSplitAndJoin:
    def test_the_last_layers_get_a_stack_of_their_own(self):
        blocks = split_stacks(Model(STACK), 2).blocks
        assert layer_count(blocks.first) == 1
        assert layer_count(blocks.last) == 2

    def test_joining_is_the_inverse_of_splitting(self, same):
        two_stacks = split_stacks(Model(STACK), 2)
        assert same(join_stacks(two_stacks), Model(STACK))

    def test_a_model_with_one_stack_is_returned_as_it_is(self):
        model = Model(STACK)
        assert join_stacks(model) is model

    def test_stacks_that_are_stored_differently_stay_apart(self):
        kernel = jnp.ones((1, 32, 32))
        quantized = quant.quantize(kernel, "nf4")
        model = Model(Stacks(Linear(quantized), Linear(kernel)))
        assert join_stacks(model) is model


class TestShouldUnroll:
    def test_up_to_a_number_of_layers(self):
        def layers(count):
            return Linear(jnp.ones((count, 1, 1)))

        assert should_unroll(layers(UNROLL))
        assert not should_unroll(layers(UNROLL + 1))

    def test_not_where_a_matrix_is_quantized(self):
        kernel = quant.quantize(jnp.ones((2, 32, 32)), "nf4")
        assert not should_unroll(Linear(kernel))
