"""One batch on all devices: each has the model and a share of the rows.

XLA sees how its arguments are sharded and sums gradients over the devices by itself. On
CPU, cores are made devices: what XLA does not cut into threads (norms, softmax,
transposes) then runs on all of them. Devices of other processes are used like this
one's. A model that is spread over a mesh already (`train.sharding`) stays there.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

# The axes of a mesh: what is cut over them.
CELLS = "cells"  # the trainings of a population
DATA = "data"  # the rows of a batch
MODEL = "model"  # the matrices of a model
# Where Linux says what the containers of today may take (cgroups of version 2).
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")

HOST = "pinned_host"  # jax's name for host memory that a device reads directly

# Each core that is a device holds a copy of the model, and has fewer rows of a batch
# than products need to be fast.
MAX_CORES = 4


def cores_as_devices() -> None:
    """Make every core a device, up to `MAX_CORES`.

    Where the environment says how many devices there are, nothing is changed. This has
    to be called before jax counts its devices.
    """
    is_set_for_jax = "JAX_NUM_CPU_DEVICES" in os.environ
    is_set_for_xla = "device_count" in os.environ.get("XLA_FLAGS", "")
    if is_set_for_jax or is_set_for_xla:
        return
    count = min(MAX_CORES, _core_count())
    jax.config.update("jax_num_cpu_devices", count)


def _core_count() -> int:
    # A container may have been given fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_kinds() -> list[str]:
    """Return jax's names for the kinds of memory that this backend has."""
    device = jax.local_devices()[0]
    return [memory.kind for memory in device.addressable_memories()]


def memory_bytes() -> int | None:
    """Return the bytes of memory that a device of this process has, if it is known.

    Cores that are devices have equal parts of the machine's memory.
    """
    devices = jax.local_devices()
    # A CPU has no statistics of its memory.
    statistics = devices[0].memory_stats()
    if statistics is not None:
        return statistics.get("bytes_limit")
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return None  # as on Windows
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, _container_bytes() or machine) // len(devices)


def _container_bytes() -> int | None:
    """Return the bytes that this process's container may take; None without a limit."""
    try:
        limit = CONTAINER_LIMIT.read_text().strip()
    except OSError:
        return None
    # Otherwise it is the word `max`.
    return int(limit) if limit.isdigit() else None


def mesh(rows: int) -> Mesh:
    """Return a mesh of as many devices as share the rows evenly.

    They are as many of each process. Where the processes do not share the rows evenly,
    each computes all of them by itself.
    """
    processes = [jax.process_index()]
    if rows % jax.process_count() == 0:
        processes = list(range(jax.process_count()))
    share = rows // len(processes)
    # The largest number of devices that divides the rows; one always does.
    count = jax.local_device_count()
    while share % count:
        count -= 1
    devices = []
    for process in processes:
        devices += jax.local_devices(process_index=process)[:count]
    return jax.make_mesh(
        (len(devices),),
        (DATA,),
        axis_types=(AxisType.Auto,),
        devices=devices,
    )


def mesh_of(model: Any) -> Mesh | None:
    """Return the mesh that a model's matrices are spread over; None where they are not.

    The meshes of `mesh` are not meant: on those each device has all of the model.
    """
    for leaf in jax.tree.leaves(model):
        cut = getattr(leaf, "sharding", None)
        if isinstance(cut, NamedSharding) and MODEL in cut.mesh.axis_names:
            return cut.mesh  # type: ignore[return-value]
    return None


def placed(model: Any, rows: int) -> tuple[Any, Mesh]:
    """Return a model on devices that share so many rows, and their mesh.

    A model that is spread over a mesh stays as it is.
    """
    spread = mesh_of(model)
    if spread is not None:
        # What was computed from its leaves may be on one device.
        everywhere = NamedSharding(spread, PartitionSpec())
        return jax.tree.map(lambda leaf: _joining(leaf, everywhere), model), spread
    shared = mesh(rows)
    return replicate(model, shared), shared


def _joining(leaf: Any, everywhere: NamedSharding) -> Any:
    """The leaf on a mesh, in its own way if it is there already."""
    cut = getattr(leaf, "sharding", None)
    if isinstance(cut, NamedSharding) and cut.mesh == everywhere.mesh:
        return leaf
    return put(leaf, everywhere)


def use(mesh: Mesh) -> AbstractContextManager:
    """Return the context in which functions of a model that is spread are called."""
    return jax.set_mesh(mesh) if MODEL in mesh.axis_names else nullcontext()


def put(leaves: Any, cuts: Any) -> Any:
    """Return a tree of arrays, cut as a sharding, or a tree of shardings, says.

    Of an array that all processes have, each puts on its devices what is theirs.
    """
    if jax.process_count() == 1:
        return jax.device_put(leaves, cuts)
    if isinstance(cuts, Sharding):
        return jax.tree.map(lambda leaf: _put_part(leaf, cuts), leaves)
    return jax.tree.map(_put_part, leaves, cuts)


def _put_part(leaf: Any, cut: Sharding) -> Any:
    """Put on this process's devices what is theirs of an array."""
    is_array = isinstance(leaf, jax.Array)
    # An array that is on all devices can be cut anew by these alone.
    if cut.is_fully_addressable or (is_array and not leaf.is_fully_addressable):
        return jax.device_put(leaf, cut)
    if is_array and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        # Keys have no numbers that numpy could hold.
        implementation = jax.random.key_impl(leaf)
        numbers = _put_part(jax.random.key_data(leaf), cut)
        return jax.random.wrap_key_data(numbers, impl=implementation)
    numbers = np.asarray(leaf)
    return jax.make_array_from_callback(
        numbers.shape, cut, lambda index: numbers[index]
    )


def replicate(tree: Any, mesh: Mesh, *, host: bool = False) -> Any:
    """Return the tree with every leaf on all devices.

    With `host`, the leaves are in the host's memory, once for each device.
    """
    kind = HOST if host else None  # None: the device's own
    return put(tree, NamedSharding(mesh, PartitionSpec(), memory_kind=kind))


def shard_rows(batch: Any, mesh: Mesh) -> Any:
    """Return the batch with its rows, each leaf's first axis, shared by the devices.

    Rows that they do not share evenly are on all of them.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    is_even = rows % mesh.shape[DATA] == 0
    spec = PartitionSpec(DATA) if is_even else PartitionSpec()
    return put(batch, NamedSharding(mesh, spec))


def spread_rows(x: Any) -> Any:
    """Return x, its rows cut over the axis `data` of the mesh that is set, if one is.

    Where nothing is said, XLA may cut the residual stream along its width instead, as
    the matrices are that it is multiplied with; all rows would then be on all devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if DATA not in mesh.axis_names:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(DATA))


def to_first_device(tree: Any) -> Any:
    """Return a tree that all devices have on this process's first device alone."""
    first = jax.local_devices()[0]

    def move(leaf):
        # What other processes have as well is here too.
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = leaf.addressable_data(0)
        return jax.device_put(leaf, first)

    return jax.tree.map(move, tree)


def to_host(array: Any) -> np.ndarray:
    """Return an array's numbers, those on the devices of other processes as well."""
    is_array = isinstance(array, jax.Array)
    if is_array and not (array.is_fully_addressable or array.is_fully_replicated):
        cut: Any = array.sharding
        everywhere = NamedSharding(cut.mesh, PartitionSpec())
        array = jax.jit(lambda numbers: numbers, out_shardings=everywhere)(array)
    return np.asarray(array)


def nbytes(leaves: Any) -> int:
    """Return the bytes of a tree on one device; all of them where no place is known."""
    total = 0
    for leaf in jax.tree.leaves(leaves):
        shape = leaf.shape
        # Shapes may have a place as well.
        if cut := getattr(leaf, "sharding", None):
            shape = cut.shard_shape(leaf.shape)
        total += int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize
    return total
