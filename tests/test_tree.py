"""Trees by path: what is named is found, changed and split off, and nothing else."""

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

NAMES = st.text("abk_", min_size=1, max_size=3)
ARRAYS = st.lists(st.integers(1, 3), max_size=2).map(
    lambda shape: np.arange(np.prod(shape, dtype=int)).reshape(shape)
)
TREES = st.recursive(
    ARRAYS,
    lambda inner: (
        st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=2)
    ),
    max_leaves=8,
).filter(lambda made: isinstance(made, dict | list) and jax.tree.leaves(made))
quick = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def model():
    """A dictionary and a list of this library's layers and flax's, one of them called `value`."""
    rngs = nnx.Rngs(0)
    return {
        "value": Linear(jnp.ones((2, 3)), jnp.zeros(3)),
        "stock": nnx.Linear(3, 4, rngs=rngs),
        "rest": [Linear(jnp.ones((4, 4))), {"kernel": jnp.zeros(5)}],
    }


PATHS = [
    "rest/0/kernel",
    "rest/1/kernel",
    "stock/bias",
    "stock/kernel",
    "value/bias",
    "value/kernel",
]


class TestPaths:
    def test_name_every_layer_and_leaf(self, model):
        assert list(tree.leaves(model)) == PATHS
        layers = [
            "rest",
            "rest/0",
            "rest/0/kernel",
            "rest/1",
            "rest/1/kernel",
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
        assert all(isinstance(leaf, jax.Array) for leaf in tree.leaves(model).values())

    def test_holes_are_no_leaves(self, model):
        trainable, frozen = tree.split(model, tree.mask(model, "kernel"))
        assert list(tree.leaves(trainable)) == [
            path for path in PATHS if path.endswith("kernel")
        ]
        assert list(tree.leaves(frozen)) == [
            path for path in PATHS if path.endswith("bias")
        ]


class TestFind:
    def test_gives_layers_and_leaves(self, model):
        assert list(tree.find(model, "^value")) == [
            "value",
            "value/bias",
            "value/kernel",
        ]
        assert list(tree.find(model, r"/\d$")) == ["rest/0", "rest/1"]
        assert tree.find(model, "^stock$")["stock"] is model["stock"]

    def test_says_what_there_is(self, model):
        with pytest.raises(
            ValueError, match=r"'valeu' matches no path; there are: value, "
        ):
            tree.find(model, "valeu")
        with pytest.raises(
            ValueError,
            match=r"expected a regular expression on paths, got '\(': missing \)",
        ):
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
        with pytest.raises(
            ValueError, match=r"there are: (\w+, ){11}\w+, … \(30 in all\)$"
        ):
            tree.find({f"layer{i}": np.zeros(1) for i in range(30)}, "xyz")


class TestReplace:
    def test_layers_and_leaves(self, model):
        new = tree.replace(
            model,
            {
                "value": "a layer",
                "stock/bias": jnp.ones(4),
                "rest/1/kernel": jnp.ones(5),
            },
        )
        assert new["value"] == "a layer"
        assert (
            new["stock"].bias[...].tolist() == [1] * 4
            and new["rest"][1]["kernel"].tolist() == [1] * 5
        )
        assert isinstance(new["stock"].bias, nnx.Param)
        assert new["stock"].kernel[...] is model["stock"].kernel[...]
        assert not model["stock"].bias[...].any(), "the given tree was changed"

    def test_says_what_there_is(self, model):
        with pytest.raises(
            ValueError, match=r"no such path: values, up; there are: value, "
        ):
            tree.replace(model, {"values": 1, "up": 2, "stock": 3})

    @quick
    @given(TREES, st.data())
    def test_changes_only_what_it_names(self, made, draw):
        every = tree.nodes(made)
        assume(
            len(tree.leaves(made)) == len(jax.tree.leaves(made))
        )  # "a/b" as one name and as two would be one path
        path = draw.draw(st.sampled_from(list(tree.leaves(made))))
        new = tree.replace(made, {path: np.full(7, -1)})
        assert tree.leaves(new)[path].tolist() == [-1] * 7
        assert {p: id(leaf) for p, leaf in tree.leaves(new).items() if p != path} == {
            p: id(leaf) for p, leaf in tree.leaves(made).items() if p != path
        }
        assert set(tree.nodes(new)) == set(every)


class TestMask:
    def test_marks_leaves_by_their_whole_path(self, model):
        marked = tree.leaves(tree.mask(model, r"^(value|rest)/.*kernel$"))
        assert [path for path, chosen in marked.items() if chosen] == [
            "rest/0/kernel",
            "rest/1/kernel",
            "value/kernel",
        ]
        assert jax.tree.structure(tree.mask(model, ".")) == jax.tree.structure(model)

    def test_says_what_there_is(self, model):
        with pytest.raises(
            ValueError, match=r"'kernels\$' matches no leaf; there are: .*value/kernel"
        ):
            tree.mask(model, "kernels$")


class TestSplit:
    @quick
    @given(TREES, st.data())
    def test_merge_is_its_inverse_and_counts_add_up(self, made, draw):
        pattern = draw.draw(
            st.sampled_from(
                [part for path in tree.leaves(made) for part in path.split("/")]
            )
        )
        chosen = tree.mask(made, pattern)
        parts = tree.split(made, chosen)
        whole = tree.merge(*parts)
        assert jax.tree.structure(whole) == jax.tree.structure(made)
        assert all(
            a is b
            for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(made), strict=True)
        )
        assert (
            sum(map(tree.count, parts))
            == tree.count(made)
            == sum(leaf.size for leaf in jax.tree.leaves(made))
        )
        assert set(tree.leaves(parts[0])) == {
            path for path in tree.leaves(made) if re.search(pattern, path)
        }

    def test_an_empty_side_is_no_trouble(self, model):
        trainable, frozen = tree.split(model, tree.mask(model, "."))
        assert tree.count(frozen) == 0 and tree.leaves(frozen) == {}
        assert (
            tree.leaves(tree.merge(trainable, frozen)).keys()
            == tree.leaves(model).keys()
        )

    def test_modules_keep_their_kind(self, model):
        whole = tree.merge(*tree.split(model, tree.mask(model, "kernel")))
        assert isinstance(whole["stock"], nnx.Linear) and isinstance(
            whole["value"].kernel, nnx.Param
        )
        np.testing.assert_array_equal(
            whole["value"](jnp.ones(2)), model["value"](jnp.ones(2))
        )


def test_count_needs_only_shapes(model):
    assert (
        tree.count(model)
        == tree.count(jax.eval_shape(lambda: model))
        == 6 + 3 + 12 + 4 + 16 + 5
    )


class TestStack:
    def test_unstack_is_its_inverse(self, same):
        layers = [Linear(jnp.full((2, 3), i), jnp.arange(3.0) + i) for i in range(4)]
        stacked = tree.stack(layers)
        assert stacked.kernel.shape == (4, 2, 3) and stacked.bias.shape == (4, 3)
        assert all(
            same(a, b) for a, b in zip(tree.unstack(stacked), layers, strict=True)
        )

    def test_lengths_must_agree(self):
        with pytest.raises(
            ValueError,
            match=r"one leading layer axis of one length on every leaf, got lengths \[2, 3\]",
        ):
            tree.unstack({"a": np.zeros((2, 1)), "b": np.zeros((3, 1))})
