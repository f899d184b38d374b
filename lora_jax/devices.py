"""One batch on all of a machine's devices: each has a copy of the model and computes its share of the rows.

XLA sees the sharding of its arguments and sums gradients over devices by itself; nothing else knows of devices. On CPU, cores are
made devices: what XLA does not cut into threads (norms, softmax, transposes) then runs on all of them.
"""

import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

HOST = "pinned_host"  # jax's name for host memory that a device reads directly
MOST_CORES = 4  # each core that is a device holds a copy of the model, and has fewer rows than products need to be fast


def cores_as_devices() -> None:
    """Let every core be a device, up to `MOST_CORES`, where nobody has said how many; before jax counts its devices."""
    said = "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in os.environ.get(
        "XLA_FLAGS", ""
    )
    if not said:
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        jax.config.update("jax_num_cpu_devices", min(MOST_CORES, cores))


def memory_kinds() -> list[str]:
    """The kinds of memory this backend can keep arrays in, by jax's names."""
    return [memory.kind for memory in jax.local_devices()[0].addressable_memories()]


def mesh(rows: int) -> Mesh:
    """As many of this process's devices as share that many rows evenly."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if rows % n == 0)
    return jax.make_mesh(
        (count,), ("rows",), axis_types=(AxisType.Auto,), devices=devices[:count]
    )


def replicate(tree: Any, mesh: Mesh, *, host: bool = False) -> Any:
    """The tree with every leaf on all devices, or with `host` in the host's memory for each of them."""
    kind = {"memory_kind": HOST} if host else {}
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(), **kind))


def shard_rows(batch: Any, mesh: Mesh) -> Any:
    """The batch with its rows, the first axis of every leaf, dealt out over the devices."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("rows")))


def to_first_device(tree: Any) -> Any:
    """The tree on the first device alone."""
    return jax.device_put(tree, jax.local_devices()[0])
