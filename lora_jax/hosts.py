"""Several processes that run one program together, and what they agree on.

Each process has devices of its own and runs the same script on the same data, as
`jax.distributed` has it. The first one alone reads and writes results; what it read, or
decided by its clock, it tells the others, so that all take the same steps.
"""

import pickle
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")

CLUSTER = "cluster"  # as an address: the cluster's environment has it
# A process that is gone is noticed after this time, where no message tells it before.
HEARTBEAT_SECONDS = 30
CONNECT_SECONDS = 120


def connect(coordinator: str, processes: int, index: int) -> None:
    """Join the processes that run this program together; before anything is computed.

    Args:
        coordinator: the first process's HOST:PORT; or `CLUSTER`, where SLURM, MPI or a
            TPU's environment says all of it.
        processes: how many there are; not read with `CLUSTER`.
        index: of this process, from 0; not read with `CLUSTER`.

    Raises:
        ValueError: an argument is wrong, or the others are not reached.
    """
    arguments: dict[str, Any] = {}
    if coordinator != CLUSTER:
        check(coordinator, processes, index)
        arguments = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": index,
        }
    # It would keep SIGTERM to itself, and nobody asks it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        # jax asks each kind of cluster it knows, and names none of them.
        if coordinator == CLUSTER and "should be defined" in reason:
            reason = "the environment is none of SLURM, MPI or a TPU; name a HOST:PORT"
        raise ValueError(
            f"coordinator: {coordinator} does not bring the processes together: {reason}"
        ) from None


def check(coordinator: str, processes: int, index: int) -> None:
    """Raise a ValueError unless these can be the processes of one program."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            "coordinator: expected the first process's HOST:PORT, or cluster where "
            f"SLURM, MPI or a TPU says it, got {coordinator!r}"
        )
    if processes < 1 or not 0 <= index < processes:
        raise ValueError(
            "processes, process_index: expected how many there are, and this one's "
            f"number from 0, got {processes} and {index}"
        )


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return jax.process_index() == 0


def agreed(function: Callable[[], T]) -> T:
    """Return what a function returns in the first process, which alone calls it.

    All processes have to come here. An error of the function is raised in all.
    """
    if jax.process_count() == 1:
        return function()
    content = b""
    if is_first():
        content = pickle.dumps(_outcome(function))
    result, error = pickle.loads(_broadcast(content))
    if error is not None:
        raise error
    return result


def check_same(settings: Mapping[str, str]) -> None:
    """Check that all processes have the same settings.

    Raises:
        ValueError: one of them has others; in all processes, lest any waits.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    first = agreed(lambda: dict(settings))
    differing = []
    for name, text in settings.items():
        if first.get(name) != text:
            differing.append(f"{name} {text}, not {first.get(name)}")
    counts = multihost_utils.process_allgather(np.int32(len(differing)))
    others = [str(index) for index, count in enumerate(counts) if count]
    if differing:
        raise ValueError(
            "expected the flags of the first process in all of them, this one "
            f"(process_index {jax.process_index()}) has {'; '.join(differing)}"
        )
    if others:
        raise ValueError(
            f"expected these flags in all processes, others have {', '.join(others)}, "
            "which says which"
        )


def _outcome(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    # Whatever it is: the other processes wait to be told.
    try:
        return function(), None
    except Exception as error:
        return None, error


def _broadcast(content: bytes) -> bytes:
    """The bytes of the first process."""
    from jax.experimental import multihost_utils

    # All processes have to know how many there are.
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    # Few sizes, for each of them is compiled.
    buffer = np.zeros(1 << max(10, size - 1).bit_length(), np.uint8)
    buffer[: len(content)] = np.frombuffer(content, np.uint8)
    received = multihost_utils.broadcast_one_to_all(buffer)
    return np.asarray(received)[:size].tobytes()
