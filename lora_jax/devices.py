"""One batch on all devices of a machine: each has the model and a share of the rows.

XLA sees how its arguments are sharded and sums gradients over the devices by itself;
nothing else in the library knows of devices. On CPU, cores are made devices: what XLA
does not cut into threads (norms, softmax, transposes) then runs on all of them.
"""

import os
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"  # the axis of a mesh that a batch's rows are cut over
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
    """Return a mesh of as many of this process's devices as share the rows evenly."""
    # The largest number of devices that divides the rows; one always does.
    devices = jax.local_devices()
    count = len(devices)
    while rows % count:
        count -= 1
    return jax.make_mesh(
        (count,),
        ("rows",),
        axis_types=(AxisType.Auto,),
        devices=devices[:count],
    )


def replicate(tree: Any, mesh: Mesh, *, host: bool = False) -> Any:
    """Return the tree with every leaf on all devices.

    With `host`, the leaves are in the host's memory, once for each device.
    """
    kind = HOST if host else None  # None: the device's own
    sharding = NamedSharding(mesh, PartitionSpec(), memory_kind=kind)
    return jax.device_put(tree, sharding)


def shard_rows(batch: Any, mesh: Mesh) -> Any:
    """Return the batch with its rows, each leaf's first axis, shared by the devices."""
    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    return jax.device_put(batch, sharding)


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
    """Return the tree on the first device alone."""
    first = jax.local_devices()[0]
    return jax.device_put(tree, first)
