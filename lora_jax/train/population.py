"""Models that differ in few leaves, side by side: a population.

The leaves that are the same for all cells are held once, the others are stacked along a
leading axis N of cells. A function of one model becomes one of all by `vmap`: products
with a shared matrix stay one product, over the rows of all cells, so the matrix is read,
and dequantized, once for all of them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from lora_jax import methods, tree
from lora_jax.devices import CELLS

RANK_LEAVES = {"lora_a": -1, "lora_b": -2, "scale": -1}  # the axis r of each
DIFFERENCES_SHOWN = 4  # in an error message


class Population(NamedTuple):
    """N models, taken apart. `tree.split` has left holes in each of the three."""

    trainable: Any  # leaves [N, ...]
    private: Any  # frozen leaves that differ from cell to cell, [N, ...]
    shared: Any  # frozen leaves of all cells
    together: int = 0  # cells that are computed at a time; 0 stands for all

    @property
    def size(self) -> int:
        """The number of cells."""
        leaves = jax.tree.leaves(self.trainable)
        return leaves[0].shape[0]


def gather(models: Sequence[Any], masks: Sequence[Any]) -> Population:
    """Return models as a population.

    Ranks of LoRA that are stored smaller than those of other cells are filled up with
    idle directions: zeros with a scale of 0, which add nothing and learn nothing.

    Args:
        models: adapted models; frozen leaves that are one array, or have equal numbers,
            are shared.
        masks: booleans like each model: which leaves are trainable.

    Raises:
        ValueError: the models differ in more than the numbers of their leaves and the
            ranks of LoRA; lists the differences.
    """
    widened = _with_common_ranks(models)
    parts = []
    for model, mask in zip(widened, masks, strict=True):
        parts.append(tree.split(model, mask))
    trainable = [part[0] for part in parts]
    frozen = [part[1] for part in parts]
    _check_alike(trainable, "trainable")
    _check_alike(frozen, "frozen")
    # A base that was loaded once is the same arrays in all cells.
    differs = jax.tree.map(_differ, *frozen, is_leaf=tree.is_quantized)
    private = [tree.split(leaves, differs)[0] for leaves in frozen]
    _, shared = tree.split(frozen[0], differs)
    return Population(tree.stack(trainable), tree.stack(private), shared)


def over_cells(function: Callable, population: Population, *arguments: Any) -> Any:
    """Return `function(model, *arguments)` of all models, its results along axis N.

    The arguments are the same for all cells.
    """

    def of_one(trainable, private, shared, arguments):
        return function(joined(trainable, private, shared), *arguments)

    cells = population.trainable, population.private
    return map_cells(of_one, cells, (population.shared, arguments), population.together)


def map_cells(function: Callable, cells: tuple, shared: tuple, together: int) -> Any:
    """Return `function(*cell, *shared)` of all cells, some at a time.

    Leaves of `cells` have the leading axis N, as has the result; `function` closes over
    no arrays. Where the mesh that is set has the axis `cells`, each device along it has
    its part of them.
    """
    # Without a mesh there are no axes.
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.shape.get(CELLS, 1) == 1:
        return _map_part(function, cells, shared, together)
    return jax.shard_map(
        lambda cells, shared: _map_part(function, cells, shared, together),
        in_specs=(PartitionSpec(CELLS), PartitionSpec()),
        out_specs=PartitionSpec(CELLS),
        axis_names={CELLS},
        check_vma=False,
    )(cells, shared)


def _map_part(function: Callable, cells: tuple, shared: tuple, together: int) -> Any:
    """`map_cells` on the cells that these devices have."""
    size = jax.tree.leaves(cells)[0].shape[0]

    def of_cell(cell):
        return function(*cell, *shared)

    if together in (0, size):
        return jax.vmap(of_cell)(cells)
    # Without a batch size there is no axis of cells inside of the loop.
    batch_size = together if together > 1 else None
    return jax.lax.map(of_cell, cells, batch_size=batch_size)


def joined(trainable: Any, private: Any, shared: Any) -> Any:
    """Return the model of one cell's leaves."""
    return tree.merge(trainable, tree.merge(private, shared))


def trained_model(population: Population, index: int, model: Any, mask: Any) -> Any:
    """Return a cell's model as it was passed to `gather`, with what it has learned."""
    trainable, frozen = tree.split(model, mask)

    def cell_leaf(stacked, before):
        # Without the directions that filled its rank up.
        inside = tuple(map(slice, before.shape))
        return stacked[index][inside]

    learned = jax.tree.map(cell_leaf, population.trainable, trainable)
    return tree.merge(learned, frozen)


def _with_common_ranks(models: Sequence[Any]) -> list[Any]:
    """The models with the rank of each LoRA layer as wide as in any of them."""
    layers_by_model = [_lora_layers(model) for model in models]
    ranks: dict[str, int] = {}
    for layers in layers_by_model:
        for path, layer in layers.items():
            ranks[path] = max(ranks.get(path, 0), layer.scale.shape[-1])
    widened = []
    for model, layers in zip(models, layers_by_model, strict=True):
        leaves = {}
        for path, layer in layers.items():
            if layer.scale.shape[-1] < ranks[path]:
                leaves |= _widened_leaves(path, layer, ranks[path])
        widened.append(tree.replace(model, leaves) if leaves else model)
    return widened


def _lora_layers(model: Any) -> dict[str, Any]:
    layers = {}
    for path, layer in methods.adapters(model).items():
        if isinstance(layer, methods.LoRA):
            layers[path] = layer
    return layers


def _widened_leaves(path: str, layer: Any, rank: int) -> dict[str, Any]:
    """A LoRA layer's leaves by path, with zeros up to a rank."""
    leaves = {}
    for name, axis in RANK_LEAVES.items():
        leaf = getattr(layer, name)[...]
        # Numbers of zeros before and after, for each axis.
        padding = [(0, 0)] * leaf.ndim
        padding[axis] = (0, rank - leaf.shape[axis])
        leaves[f"{path}/{name}"] = jnp.pad(leaf, padding)
    return leaves


def _differ(first: Any, *others: Any) -> bool:
    """Whether leaves differ in any number. A quantized value is one leaf."""
    arrays = jax.tree.leaves(first)
    for other in others:
        for left, right in zip(arrays, jax.tree.leaves(other), strict=True):
            # The leaves of one base are one array: nothing has to be read.
            if left is not right and not np.array_equal(left, right):
                return True
    return False


def _check_alike(trees: Sequence[Any], kind: str) -> None:
    """Raise a ValueError unless all trees have the same leaves, of the same shapes."""
    first = _described(trees[0])
    for number, other in enumerate(trees[1:], start=2):
        problems = _differences(first, _described(other))
        # Settings that are compiled, such as a rate of dropout, are in the structure.
        if not problems and jax.tree.structure(other) != jax.tree.structure(trees[0]):
            problems = ["other settings in their layers"]
        if problems:
            listed = "; ".join(problems[:DIFFERENCES_SHOWN])
            raise ValueError(
                f"a population: expected models with the same {kind} leaves, cells 1 "
                f"and {number} differ: {listed}"
            )


def _described(leaves: Any) -> dict[str, str]:
    texts = {}
    for path, leaf in tree.leaves(leaves).items():
        texts[path] = f"{leaf.dtype} {tuple(leaf.shape)}"
    return texts


def _differences(first: dict[str, str], other: dict[str, str]) -> list[str]:
    problems = []
    # In the tree's order, each path once.
    for path in {**first, **other}:
        left = first.get(path, "none")
        right = other.get(path, "none")
        if left != right:
            problems.append(f"{path}: {left} and {right}")
    return problems
