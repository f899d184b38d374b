"""jax's devices of a machine: those of this one, or described ones.

A described device compiles and does not run. Its compiler has to be told before jax
looks for devices what machine it is on: `ENVIRONMENT` is for a process that only
compiles.
"""

from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from lora_jax.accounting.machines import A100, H100, Machine

ENVIRONMENT = {
    # jax itself runs on the processor; a GPU or TPU that is there is left alone.
    "JAX_PLATFORMS": "cpu",
    # Without these libtpu asks Google's cloud which machine it is on.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Several processes may compile: none of them holds a TPU.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # Its notes on every start are of no use to somebody who only compiles.
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class _Gpu(NamedTuple):
    """What XLA's compiler for GPUs asks of a device, as CUDA reports it."""

    name: str
    major: int  # of the compute capability
    cores: int  # streaming multiprocessors
    units: int  # for floats, of each core
    clock: float  # in GHz
    cache: int  # the second level, in bytes
    shared: int  # memory of a core, in bytes
    optional: int  # of it, what a block of threads may ask for


_GPUS = {
    H100.name: _Gpu(
        "NVIDIA H100 80GB HBM3",
        major=9,
        cores=132,
        units=128,
        clock=1.98,
        cache=52_428_800,
        shared=233_472,
        optional=232_448,
    ),
    A100.name: _Gpu(
        "NVIDIA A100-SXM4-40GB",
        major=8,
        cores=108,
        units=64,
        clock=1.41,
        cache=41_943_040,
        shared=167_936,
        optional=166_912,
    ),
}

# XLA's `GpuTargetConfigProto` as text.
_CONFIG = """
gpu_device_info {{
  name: "{gpu.name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {gpu.major} }}
  platform_version: "Compute Capability {gpu.major}.0"
  core_count: {gpu.cores}
  fpus_per_core: {gpu.units}
  clock_rate_ghz: {gpu.clock}
  l2_cache_size: {gpu.cache}
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.optional}
  device_memory_size: {chip.memory}
  memory_bandwidth: {bandwidth}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  device_address_bits: 64
  ecc_enabled: true
  driver_version: "12.8.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""


def machine_devices(machine: Machine) -> list[Any]:
    """Return the devices of a machine, as many as it counts."""
    if machine.compiler == "cpu":
        return jax.local_devices(backend="cpu")[: machine.devices]
    if machine.compiler == "tpu":
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=machine.topology
        )
    else:
        chip = machine.chip
        config = _CONFIG.format(
            gpu=_GPUS[chip.name], chip=chip, bandwidth=int(chip.bandwidth)
        )
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology_name="gpu",
            topology=machine.topology,
            target_config=config,
        )
    return list(topology.devices[: machine.devices])
