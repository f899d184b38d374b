"""Operations of products, counted by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp

from lora_jax.accounting.operations import product_operations

X = jax.ShapeDtypeStruct((3, 5), "float32")
W = jax.ShapeDtypeStruct((5, 7), "float32")
PRODUCT = 2 * 3 * 5 * 7


def count(function, *arguments, loops=1):
    return product_operations(jax.make_jaxpr(function)(*arguments), loops=loops)


def test_a_product():
    assert count(jnp.matmul, X, W) == PRODUCT
    # Four heads of products of [3, 5] and [5, 7].
    heads = [jax.ShapeDtypeStruct((4, *leaf.shape), "float32") for leaf in (X, W)]
    assert count(jnp.matmul, *heads) == 4 * PRODUCT


def test_what_is_within_a_call_a_scan_and_a_gradient():
    square = jax.ShapeDtypeStruct((6, 5, 5), "float32")

    def scanned(x, stack):
        return jax.lax.scan(lambda x, w: (jax.jit(jnp.matmul)(x, w), None), x, stack)[0]

    layer = 2 * 3 * 5 * 5
    assert count(scanned, X, square) == 6 * layer

    def loss(x, stack):
        return scanned(x, stack).sum()

    # The gradient by x alone is one product a layer, and is not without the forward.
    assert count(jax.value_and_grad(loss), X, square) == 2 * 6 * layer


def test_what_is_computed_anew_counts_again():
    def loss(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w.T).sum()

    plain = count(jax.grad(loss), X, W)
    anew = count(jax.grad(jax.checkpoint(loss)), X, W)
    # Both products of the forward pass; the backward pass has two.
    assert (plain, anew) == (4 * PRODUCT, 6 * PRODUCT)


def test_a_loop_whose_length_is_data_runs_as_often_as_is_told():
    def repeated(x, w, count):
        square = w @ w.T
        return jax.lax.fori_loop(0, count, lambda _, x: x @ square, x)

    once = 2 * 5 * 7 * 5
    number = jax.ShapeDtypeStruct((), "int32")
    assert count(repeated, X, W, number, loops=4) == once + 4 * 2 * 3 * 5 * 5


def test_of_a_choice_the_larger_branch_counts():
    def choose(x, w, chosen):
        return jax.lax.cond(chosen, lambda: x @ w, lambda: jnp.zeros((3, 7)))

    assert count(choose, X, W, jax.ShapeDtypeStruct((), "bool")) == PRODUCT


def test_attention_of_cudnn_is_counted_by_its_products():
    # By hand, as cuDNN need not be here: [B, T, H, K] and [B, S, G, K].
    arrays = [jax.ShapeDtypeStruct((2, 128, heads, 64), "bfloat16") for heads in (4, 2)]
    sides = [SimpleNamespace(aval=array) for array in arrays]
    equations = []
    for name in ("fwd", "bwd"):
        primitive = SimpleNamespace(name=f"dot_product_attention_{name}_wrapper")
        equations.append(SimpleNamespace(primitive=primitive, invars=sides))
    scores = 2 * 2 * 4 * 128 * 128 * 64
    # Two products forward, four backward.
    program = SimpleNamespace(eqns=equations)
    assert product_operations(program, loops=1) == 6 * scores
