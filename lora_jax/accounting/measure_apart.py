"""Measure in processes of their own, one after the other, for as long as there is time.

A device's count of memory is that of a process, and cannot be begun anew; and what runs
out of memory ends the process. `python -m lora_jax.accounting.measure_apart MODULE`
imports the module, reads settings as JSON, and writes what its `measure` returns.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from lora_jax import download

MODULE = "lora_jax.accounting.measure_apart"
# Of a failed process: lines of its errors that are shown.
SHOWN = 5
TIME_IS_UP = "time was up"
MEMORY = {
    # The process that waits for the others has a little of the device's memory too.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "true",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
}
# Where there is no network that is known at once.
NETWORK = {"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "5"}


class Deadline(NamedTuple):
    """When time is up, in seconds of a clock that only runs forward."""

    end: float

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.end - time.monotonic()


class LeftOut(ValueError):
    """Something was not measured: there was no time, or its process failed."""


def leave_memory() -> None:
    """Let this process leave a GPU's memory to those that it starts.

    This has to be called before jax counts its devices.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def in_minutes(minutes: float) -> Deadline:
    """Return the deadline in so many minutes from now."""
    return Deadline(time.monotonic() + 60 * minutes)


def answers(
    module: str, settings: Sequence[Mapping[str, Any]], deadline: Deadline
) -> Iterator[dict[str, Any] | LeftOut]:
    """Yield what the module's `measure` returns for each settings, or why it does not.

    The next process imports what it needs while the one before it measures.
    """
    ahead = None
    try:
        for index, setting in enumerate(settings):
            if deadline.left <= 0:
                yield LeftOut(TIME_IS_UP)
                continue
            process = ahead or _start(module)
            is_last = index + 1 == len(settings)
            ahead = None if is_last else _start(module)
            yield _answer(process, setting, deadline)
    finally:
        if ahead is not None:
            ahead.kill()
            ahead.communicate()


def _start(module: str) -> subprocess.Popen:
    # What was compiled once need not be again.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(download.cache_folder() / "xla")}
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**cache, **NETWORK, **os.environ, **MEMORY},
    )


def _answer(
    process: subprocess.Popen, setting: Mapping[str, Any], deadline: Deadline
) -> dict[str, Any] | LeftOut:
    question = json.dumps(dict(setting))
    try:
        written, errors = process.communicate(question, max(0.0, deadline.left))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return LeftOut(TIME_IS_UP)
    if process.returncode:
        lines = errors.strip().splitlines()
        return LeftOut("\n".join(lines[-SHOWN:]))
    # Libraries may print before it.
    return json.loads(written.strip().splitlines()[-1])


def main(name: str) -> None:
    """Measure what standard input asks for; an error of ours is one line."""
    module = import_module(name)
    settings = json.load(sys.stdin)
    try:
        row = module.measure(settings)
    except ValueError as error:
        sys.exit(str(error))
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1])
