"""How a model is spread over devices: matrices over `model`, batches over `data`.

A mesh has the axes `cells`, `data` and `model`; of a population, each device along
`cells` trains its part. Each block's matrices are cut as in Shoeybi et
al. 2019 (arXiv 1909.08053): those that read the residual stream by their outputs, those
that write to it by their inputs, so that a half of a block needs one sum over `model`.
LoRA's A and B are cut as the matrix they adapt. With `shard_base` the other side of each
matrix is cut over `data` too, and is gathered when its layer is computed (Rajbhandari et
al. 2019, arXiv 1910.02054, stage 3). XLA adds the messages between devices by itself.

A side that an axis does not divide evenly is not cut by it; the axis then cuts the other
side, if it can. Of a quantized value each array is cut by whole blocks of numbers.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lora_jax import devices, quant, tree
from lora_jax.devices import CELLS, DATA, MODEL

AXES = (CELLS, DATA, MODEL)
AUTO = "auto"  # as a mesh: as many devices as share a batch's rows, each with the model

# Layers that write to the residual stream, by the end of a path; adapters wrap them.
_WRITING = r"/(output|down)(/base)*"
# Axes of the last sides of a leaf, by its path; the first pattern that matches counts.
_RULES = (
    (_WRITING + "/kernel$", (MODEL, DATA)),
    (_WRITING + "/lora_a$", (MODEL, None)),
    (_WRITING + "/lora_b$", (None, None)),
    (r"(^|/)kernel$", (DATA, MODEL)),
    (r"(^|/)lora_a$", (None, None)),
    (r"(^|/)lora_b$", (None, MODEL)),
    (r"/(query|key|value|gate|up)(/base)*/bias$", (MODEL,)),
    (r"(^|/)embedding$", (MODEL, None)),
)


class MeshShape(NamedTuple):
    """How many devices an axis has."""

    data: int = 1
    model: int = 1
    cells: int = 1

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.cells * self.data * self.model

    def __str__(self) -> str:
        text = f"{DATA}={self.data},{MODEL}={self.model}"
        # Most meshes train one cell at a time.
        return f"{CELLS}={self.cells},{text}" if self.cells > 1 else text


class Placement(NamedTuple):
    """Where the arrays of a training are."""

    mesh: Mesh
    shard_base: bool = False
    by_rule: bool = True  # else all leaves are on all devices

    @property
    def rows_divisor(self) -> int:
        """Among how many devices the rows of a batch are divided."""
        return self.mesh.shape[DATA]

    def put(self, leaves: Any, *, host: bool = False) -> Any:
        """Return the leaves of a model, or of an optimizer's state, in their places.

        With `host`, they are in the host's memory.
        """
        if not self.by_rule:
            return devices.replicate(leaves, self.mesh, host=host)
        cuts = shardings(leaves, self.mesh, shard_base=self.shard_base)
        if host:
            cuts = jax.tree.map(lambda cut: cut.with_memory_kind(devices.HOST), cuts)
        return devices.put(leaves, cuts)

    def described(self, leaves: Any) -> Any:
        """Return the leaves as shapes that say where the rules would put them."""
        cuts = shardings(leaves, self.mesh, shard_base=self.shard_base)
        return describe(leaves, cuts)

    def __str__(self) -> str:
        sizes = {axis: self.mesh.shape.get(axis, 1) for axis in AXES}
        return str(MeshShape(**sizes)) + (",shard_base" if self.shard_base else "")


def placement(mesh: str, rows: int, *, shard_base: bool = False) -> Placement:
    """Return where a training is whose micro-batches have so many rows.

    Args:
        mesh: a text as for `parse_mesh`, of all devices; or `AUTO`.
        rows: of a micro-batch.
        shard_base: whether the base is cut over `data` too.

    Raises:
        ValueError: as `check_mesh`.
    """
    check_mesh(mesh, rows)
    # What is written has all devices, those of other processes too.
    if mesh != AUTO:
        grid = make_mesh(jax.devices(), parse_mesh(mesh))
        return Placement(grid, shard_base)
    shared = devices.mesh(rows)
    if not shard_base:
        return Placement(shared, by_rule=False)
    # The same devices, on a mesh that matrices can be cut over.
    members = list(shared.devices.flat)
    return Placement(make_mesh(members, MeshShape(len(members))), shard_base)


def check_mesh(mesh: str, rows: int) -> None:
    """Check a mesh and the rows of a micro-batch against the devices there are.

    Raises:
        ValueError: the text is no mesh, it has another number of devices than there
            are, or its axis `data` does not divide the rows.
    """
    if mesh == AUTO:
        return
    shape = parse_mesh(mesh)
    if shape.devices != jax.device_count():
        raise ValueError(
            f"mesh: expected as many devices in all as there are, {jax.device_count()}, "
            f"got {mesh}, which has {shape.devices}"
        )
    if rows % shape.data:
        raise ValueError(
            f"mesh: expected a number of devices along data that divides the {rows} "
            f"rows of a micro-batch, got {mesh}"
        )


def parse_mesh(text: str) -> MeshShape:
    """Return the mesh of a text such as `data=4,model=2`; an axis may be missing.

    Raises:
        ValueError: an axis is not known, stands twice, or has no whole number of devices.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        is_size = number.isdecimal() and int(number) > 0
        if name not in AXES or name in sizes or not is_size:
            raise ValueError(
                "mesh: expected a number of devices for data, for model, for cells or "
                f"for several of them, as data=4,model=2, got {text!r}"
            )
        sizes[name] = int(number)
    return MeshShape(**sizes)


def make_mesh(members: Sequence[Any], shape: MeshShape) -> Mesh:
    """Return a mesh of the devices; neighbors share the axis `model`.

    Raises:
        ValueError: the mesh has another number of devices.
    """
    if shape.devices != len(members):
        raise ValueError(
            f"mesh: expected {len(members)} devices in all, as many as there are, got "
            f"{shape}, which has {shape.devices}"
        )
    grid = np.array(members).reshape(shape.cells, shape.data, shape.model)
    return Mesh(grid, AXES)


def shardings(leaves: Any, mesh: Mesh, *, shard_base: bool = False) -> Any:
    """Return how each array of a tree is sharded, as a tree of the same structure.

    The tree is a model, a part of it, or an optimizer's state, whose paths end as the
    model's do; leaves may be shapes. What no rule has is on all devices.
    """

    def of_leaf(keys, leaf):
        if quant.is_quantized(leaf):
            return _quantized(leaf, mesh, shard_base)
        axes = _axes_of(tree.path_name(keys), shard_base)
        return NamedSharding(mesh, _spec(leaf.shape, axes, mesh))

    return jax.tree_util.tree_map_with_path(of_leaf, leaves, is_leaf=quant.is_quantized)


def describe(leaves: Any, cuts: Any) -> Any:
    """Return leaves as shapes with shardings: one for all, or a tree of them."""

    def of_leaf(leaf, cut):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=cut)

    if isinstance(cuts, NamedSharding):
        return jax.tree.map(lambda leaf: of_leaf(leaf, cuts), leaves)
    return jax.tree.map(of_leaf, leaves, cuts)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Return how a batch is sharded: its rows over `data`."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def _axes_of(path: str, shard_base: bool) -> tuple[str | None, ...]:
    # An nnx variable's array has a path of its own.
    path = path.removesuffix("/value")
    for pattern, axes in _RULES:
        if re.search(pattern, path):
            return tuple(_kept(axis, shard_base) for axis in axes)
    return ()


def _kept(axis: str | None, shard_base: bool) -> str | None:
    return None if axis == DATA and not shard_base else axis


def _spec(
    shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh
) -> PartitionSpec:
    """Return the cut of an array whose last sides have these axes."""
    first = len(shape) - len(axes)
    if first < 0:
        return PartitionSpec()
    by_side: list[tuple[str, ...]] = [() for _ in shape]
    homeless = []
    for side, axis in enumerate(axes, start=first):
        if axis is None:
            continue
        if shape[side] % mesh.shape[axis]:
            homeless.append(axis)
        else:
            by_side[side] = (axis,)
    # An axis goes to the other side where its own is not divided evenly.
    for axis in homeless:
        for side in range(first, len(shape)):
            both = (*by_side[side], axis)
            shares = math.prod(mesh.shape[name] for name in both)
            if shape[side] % shares == 0:
                by_side[side] = both
                break
    return PartitionSpec(*[names or None for names in by_side])


def _quantized(value: quant.Quantized, mesh: Mesh, shard_base: bool) -> Any:
    """Return the cuts of a quantized value's arrays, along their last axis.

    Numbers lie block by block, and the two codes of a byte half a matrix apart: equal
    shares of an array are whole blocks if those of each half are.
    """
    axes = (DATA, MODEL) if shard_base else (MODEL,)
    shares = math.prod(mesh.shape[axis] for axis in axes)
    blocks = math.prod(value.stored) / value.block / 2

    def cut(leaf):
        # The mean of all scales has no axis but the layers'.
        is_divided = blocks % shares == 0 and leaf.ndim == value.codes.ndim
        if not is_divided or leaf.shape[-1] % shares:
            return NamedSharding(mesh, PartitionSpec())
        before = [None] * (leaf.ndim - 1)
        return NamedSharding(mesh, PartitionSpec(*before, axes))

    return jax.tree.map(cut, value)
