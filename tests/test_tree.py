"""Trees by path: only the named nodes are found, replaced and split off."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lora_jax import tree
from lora_jax.nn.layers import Linear
from lora_jax.quant import quantize

NAMES = st.text("abk_", min_size=1, max_size=3)


def array_of(shape: list[int]) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape)


def dictionary_or_list(inner):
    dictionaries = st.dictionaries(NAMES, inner, max_size=3)
    lists = st.lists(inner, max_size=2)
    return dictionaries | lists


def has_leaves(tree) -> bool:
    is_leaf = not isinstance(tree, dict | list)
    return not is_leaf and bool(jax.tree.leaves(tree))


SHAPES = st.lists(st.integers(1, 3), max_size=2)
ARRAYS = SHAPES.map(array_of)
TREES = st.recursive(ARRAYS, dictionary_or_list, max_leaves=8).filter(has_leaves)
quick = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def model():
    """Layers of this library and of flax in a dictionary and a list.

    One is called `value`, as an attribute of nnx's boxes once was.
    """
    rngs = nnx.Rngs(0)
    return {
        "value": Linear(jnp.ones((2, 3)), jnp.zeros(3)),
        "stock": nnx.Linear(3, 4, rngs=rngs),
        "others": [Linear(jnp.ones((4, 4))), {"kernel": jnp.zeros(5)}],
    }


PATHS = [
    "others/0/kernel",
    "others/1/kernel",
    "stock/bias",
    "stock/kernel",
    "value/bias",
    "value/kernel",
]


class TestPaths:
    def test_name_every_layer_and_leaf(self, model):
        assert list(tree.leaves(model)) == PATHS
        layers = [
            "others",
            "others/0",
            "others/0/kernel",
            "others/1",
            "others/1/kernel",
            "stock",
            "stock/bias",
            "stock/kernel",
        ]
        assert list(tree.nodes(model)) == [
            *layers,
            "value",
            "value/bias",
            "value/kernel",
        ]
        assert tree.nodes(model)["value"] is model["value"]

    def test_leaves_are_arrays(self, model):
        for leaf in tree.leaves(model).values():
            assert isinstance(leaf, jax.Array)

    def test_holes_are_no_leaves(self, model):
        trainable, frozen = tree.split(model, tree.mask(model, "kernel"))
        kernels = [path for path in PATHS if path.endswith("kernel")]
        biases = [path for path in PATHS if path.endswith("bias")]
        assert list(tree.leaves(trainable)) == kernels
        assert list(tree.leaves(frozen)) == biases


class TestFind:
    def test_layers_and_leaves(self, model):
        assert list(tree.find(model, "^value")) == [
            "value",
            "value/bias",
            "value/kernel",
        ]
        assert list(tree.find(model, r"/\d$")) == ["others/0", "others/1"]
        assert tree.find(model, "^stock$")["stock"] is model["stock"]

    def test_an_unknown_name_is_an_error_with_candidates(self, model):
        message = r"'valeu' matches no path; there are: value, "
        with pytest.raises(ValueError, match=message):
            tree.find(model, "valeu")

    def test_a_pattern_that_is_no_regex_is_an_error(self, model):
        message = r"expected a regular expression on paths, got '\(': missing \)"
        with pytest.raises(ValueError, match=message):
            tree.find(model, "(")

    def test_the_nearest_end_comes_first(self):
        paths = [
            "blocks/attention/key",
            "blocks/attention/output",
            "blocks/mlp/up",
            "blocks/attention/query",
        ]
        assert tree.near("qeury", paths).startswith("blocks/attention/query, ")
        assert tree.near("attn/output", paths).startswith("blocks/attention/output, ")

    def test_long_lists_are_cut(self):
        many = {f"layer{index}": np.zeros(1) for index in range(30)}
        message = r"there are: (\w+, ){11}\w+, … \(30 in all\)$"
        with pytest.raises(ValueError, match=message):
            tree.find(many, "xyz")


class TestReplace:
    def test_layers_and_leaves(self, model):
        new = tree.replace(
            model,
            {
                "value": "a layer",
                "stock/bias": jnp.ones(4),
                "others/1/kernel": jnp.ones(5),
            },
        )
        assert new["value"] == "a layer"
        assert new["stock"].bias[...].tolist() == [1] * 4
        assert new["others"][1]["kernel"].tolist() == [1] * 5
        assert isinstance(new["stock"].bias, nnx.Param)
        assert new["stock"].kernel[...] is model["stock"].kernel[...]
        assert not model["stock"].bias[...].any(), "the tree itself was changed"

    def test_an_unknown_name_is_an_error_with_candidates(self, model):
        message = r"no such path: values, up; there are: value, "
        with pytest.raises(ValueError, match=message):
            tree.replace(model, {"values": 1, "up": 2, "stock": 3})

    @quick
    @given(TREES, st.data())
    def test_only_the_named_leaf_changes(self, plain, data):
        leaves = tree.leaves(plain)
        # "a/b" as one name and as two would be one path.
        assume(len(leaves) == len(jax.tree.leaves(plain)))
        path = data.draw(st.sampled_from(list(leaves)))
        new = tree.replace(plain, {path: np.full(7, -1)})

        new_leaves = tree.leaves(new)
        assert new_leaves.keys() == leaves.keys()
        assert tree.nodes(new).keys() == tree.nodes(plain).keys()
        assert new_leaves.pop(path).tolist() == [-1] * 7
        for name, leaf in new_leaves.items():
            assert leaf is leaves[name]


class TestMask:
    def test_marks_leaves_by_their_whole_path(self, model):
        mask = tree.mask(model, r"^(value|others)/.*kernel$")
        marks = tree.leaves(mask)
        marked = [path for path, mark in marks.items() if mark]
        assert marked == [
            "others/0/kernel",
            "others/1/kernel",
            "value/kernel",
        ]
        assert jax.tree.structure(tree.mask(model, ".")) == jax.tree.structure(model)

    def test_an_unknown_name_is_an_error_with_candidates(self, model):
        message = r"'kernels\$' matches no leaf; there are: .*value/kernel"
        with pytest.raises(ValueError, match=message):
            tree.mask(model, "kernels$")


class TestSplit:
    @quick
    @given(TREES, st.data())
    def test_merge_is_its_inverse_and_counts_add_up(self, plain, data):
        names = []
        for path in tree.leaves(plain):
            names.extend(path.split("/"))
        pattern = data.draw(st.sampled_from(names))
        trainable, frozen = tree.split(plain, tree.mask(plain, pattern))

        matching = {path for path in tree.leaves(plain) if re.search(pattern, path)}
        assert set(tree.leaves(trainable)) == matching
        total = sum(leaf.size for leaf in jax.tree.leaves(plain))
        assert tree.count(plain) == total
        assert tree.count(trainable) + tree.count(frozen) == total

        merged = tree.merge(trainable, frozen)
        assert jax.tree.structure(merged) == jax.tree.structure(plain)
        pairs = zip(jax.tree.leaves(merged), jax.tree.leaves(plain), strict=True)
        for merged_leaf, leaf in pairs:
            assert merged_leaf is leaf

    def test_one_side_may_be_empty(self, model):
        trainable, frozen = tree.split(model, tree.mask(model, "."))
        assert tree.count(frozen) == 0
        assert tree.leaves(frozen) == {}
        merged = tree.merge(trainable, frozen)
        assert tree.leaves(merged).keys() == tree.leaves(model).keys()

    def test_modules_keep_their_types(self, model):
        trainable, frozen = tree.split(model, tree.mask(model, "kernel"))
        merged = tree.merge(trainable, frozen)
        assert isinstance(merged["stock"], nnx.Linear)
        assert isinstance(merged["value"].kernel, nnx.Param)
        x = jnp.ones(2)
        np.testing.assert_array_equal(merged["value"](x), model["value"](x))


def test_count_and_bytes_need_only_shapes(model):
    shapes = jax.eval_shape(lambda: model)
    count = 6 + 3 + 12 + 4 + 16 + 5
    assert tree.count(model) == count
    assert tree.count(shapes) == count
    assert tree.nbytes(model) == 4 * count
    assert tree.nbytes(shapes) == 4 * count


def test_a_quantized_value_counts_its_numbers_and_stores_its_bytes():
    value = quantize(jnp.ones((64, 64)), "nf4")
    assert tree.count({"kernel": value}) == 64 * 64
    # Half a byte a number, and a scale of four bytes for 64.
    assert tree.nbytes({"kernel": value}) == 64 * 32 + 64 * 4


class TestStack:
    def test_unstack_is_its_inverse(self, same):
        layers = []
        for index in range(4):
            kernel = jnp.full((2, 3), index)
            layers.append(Linear(kernel, jnp.arange(3.0) + index))
        stacked = tree.stack(layers)
        assert stacked.kernel.shape == (4, 2, 3)
        assert stacked.bias.shape == (4, 3)
        for layer, expected in zip(tree.unstack(stacked), layers, strict=True):
            assert same(layer, expected)

    def test_lengths_must_agree(self):
        different = {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}
        message = r"one leading layer axis of one length .*, got lengths \[2, 3\]"
        with pytest.raises(ValueError, match=message):
            tree.unstack(different)
