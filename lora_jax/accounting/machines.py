"""Machines to compile a step for, there or not: memory, and how fast at best.

XLA's compilers for GPUs and TPUs run on a machine without either. jax describes the
devices, and a program that is compiled for them has the memory plan it would run with.
Nothing is executed. The compilers come with jax's wheels for CUDA and for TPUs, the
extras `cuda` and `tpu` of this package.
"""

import os
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec
from typing import NamedTuple

GB = 10**9  # bytes
GIB = 2**30  # bytes
TERA = 10**12  # operations


class Chip(NamedTuple):
    """A device: its memory in bytes, and its published peaks."""

    name: str
    memory: int  # that a program can have
    peak: float  # operations a second of dense bfloat16 products
    bandwidth: float  # bytes a second
    source: str


class Machine(NamedTuple):
    """Devices of one kind; `topology` is how jax describes them."""

    name: str
    compiler: str  # a key of `COMPILERS`
    chip: Chip
    devices: int
    topology: str


class Compiler(NamedTuple):
    """One of XLA's compilers, and the wheel that it comes in."""

    module: str  # to import
    wheel: str
    extra: str  # of this package
    words: str


COMPILERS = {
    "cpu": Compiler("jaxlib", "jaxlib", "", "XLA's compiler for processors"),
    "cuda": Compiler(
        "jax_plugins.xla_cuda12", "jax-cuda12-plugin", "cuda", "XLA's compiler for GPUs"
    ),
    "tpu": Compiler("libtpu", "libtpu", "tpu", "XLA's compiler for TPUs"),
}

H100 = Chip(
    "H100 SXM",
    memory=84_942_979_072,  # what CUDA reports of its 80 GiB
    peak=989.4 * TERA,
    bandwidth=3352.32 * GB,
    source="NVIDIA H100 Tensor Core GPU data sheet: 3.35 TB/s; 1,979 TFLOP/s with "
    "sparsity, half of it without",
)
A100 = Chip(
    "A100 SXM 40 GB",
    memory=42_331_013_120,  # what CUDA reports of its 40 GiB
    peak=312 * TERA,
    bandwidth=1555.2 * GB,
    source="NVIDIA A100 Tensor Core GPU data sheet: 1,555 GB/s; 312 TFLOP/s",
)
# An H100 with more and faster memory.
H200 = Chip(
    "H200 SXM",
    memory=150_754_820_096,  # what the driver reports of its 141 GB
    peak=989.4 * TERA,
    bandwidth=4800 * GB,
    source="NVIDIA H200 Tensor Core GPU data sheet: 4.8 TB/s; 1,979 TFLOP/s with "
    "sparsity, half of it without",
)
V5E = Chip(
    "TPU v5e",
    memory=int(15.75 * GIB),  # what its compiler allows of 16 GiB
    peak=197 * TERA,
    bandwidth=819 * GB,
    source="Google Cloud, TPU v5e: 16 GB, 819 GB/s, 197 TFLOP/s a chip",
)
V5P = Chip(
    "TPU v5p",
    memory=int(95.74 * GIB),  # what its compiler allows of 95 GB
    peak=459 * TERA,
    bandwidth=2765 * GB,
    source="Google Cloud, TPU v5p: 95 GB, 2,765 GB/s, 459 TFLOP/s a chip",
)

# By jax's name of a device's kind.
CHIPS = {
    "NVIDIA H100 80GB HBM3": H100,
    "NVIDIA H200": H200,
    "NVIDIA A100-SXM4-40GB": A100,
    "TPU v5 lite": V5E,
    "TPU v5": V5P,
}

# Of a processor nobody publishes a peak: there is no floor of a step's time.
CPU = Machine("cpu", "cpu", Chip("this machine", 0, 0.0, 0.0, ""), 1, "")

# Of GPUs a topology is partitions x hosts x devices; a v5p's name counts chips here.
_DESCRIBED = (
    Machine("h100", "cuda", H100, 1, "1x1x1"),
    Machine("h100x8", "cuda", H100, 8, "1x1x8"),
    Machine("h100x16", "cuda", H100, 16, "1x2x8"),
    Machine("a100", "cuda", A100, 1, "1x1x1"),
    Machine("v5e-1", "tpu", V5E, 1, "v5e:2x2"),
    Machine("v5e-4", "tpu", V5E, 4, "v5e:2x2"),
    Machine("v5e-16", "tpu", V5E, 16, "v5e:4x4"),
    Machine("v5p-64", "tpu", V5P, 64, "v5p:4x4x4"),
)
MACHINES = {machine.name: machine for machine in (CPU, *_DESCRIBED)}
"""The machines by name; `cpu` is this one."""


def find_machine(name: str) -> Machine:
    """Return the machine of a name.

    Raises:
        ValueError: there is none of that name; lists those there are.
    """
    if name not in MACHINES:
        names = ", ".join(MACHINES)
        raise ValueError(f"machine: expected one of {names}, got {name!r}")
    return MACHINES[name]


def device_memory(machine: Machine) -> int:
    """Return the bytes that a program can have on one device of the machine."""
    if machine.compiler == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return machine.chip.memory


def compiler_version(machine: Machine) -> str:
    """Return the wheel of a machine's compiler and its version: `libtpu 0.0.42`."""
    wheel = COMPILERS[machine.compiler].wheel
    return f"{wheel} {metadata.version(wheel)}"


def missing_compilers(names: Iterable[str]) -> list[str]:
    """Return a sentence on each compiler that these machines need and is not installed."""
    by_compiler: dict[str, list[str]] = {}
    for name in names:
        compiler = find_machine(name).compiler
        if not _is_installed(COMPILERS[compiler]):
            by_compiler.setdefault(compiler, []).append(name)
    sentences = []
    for compiler, needing in by_compiler.items():
        needed = COMPILERS[compiler]
        # Each once, in order.
        listed = ", ".join(dict.fromkeys(needing))
        sentences.append(
            f"{listed}: expected {needed.words}, which is not installed (no such device "
            f"is needed): pip install -e '.[{needed.extra}]'"
        )
    return sentences


def _is_installed(compiler: Compiler) -> bool:
    # `find_spec` fails where the package that would hold the module is not there.
    try:
        return find_spec(compiler.module) is not None
    except ModuleNotFoundError:
        return False


def floors(machine: Machine, operations: float, accessed: int) -> dict[str, float]:
    """Return the seconds that a device's operations and bytes take at least.

    `floor/products` is by the peak of its products, `floor/memory` by its bandwidth, and
    `floor/seconds` the larger. Nobody publishes those of a processor: it has none.
    """
    chip = machine.chip
    if not chip.peak:
        return {}
    products = operations / chip.peak
    memory = accessed / chip.bandwidth
    return {
        "floor/products": products,
        "floor/memory": memory,
        "floor/seconds": max(products, memory),
    }
