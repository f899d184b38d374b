"""Compile a step in a process of its own, whose jax knows of no device but described ones.

`python -m lora_jax.accounting.compile_apart` reads the settings of a step as JSON and
writes what `fitted_step.step_cost` returns. A compiler for described devices has to be
set up before jax is, and one process at a time has it.
"""

import json
import os
import subprocess
import sys
from typing import Any

from lora_jax.accounting.described_devices import ENVIRONMENT
from lora_jax.accounting.fitted_step import FittedStep, step_cost
from lora_jax.accounting.machines import find_machine

MODULE = "lora_jax.accounting.compile_apart"
# Of a failed process: lines of its errors that are shown.
SHOWN = 5


def cost(step: FittedStep) -> dict[str, Any]:
    """Return what `step_cost` returns, of this machine or of described devices.

    Raises:
        ValueError: as `step_cost`, or the process ended with an error.
    """
    if find_machine(step.machine).compiler == "cpu":
        return step_cost(step)
    environment = {**os.environ, **ENVIRONMENT}
    # Flags for this machine's compiler may be unknown to the other.
    environment.pop("XLA_FLAGS", None)
    ended = subprocess.run(
        [sys.executable, "-m", MODULE],
        input=json.dumps(step._asdict()),
        env=environment,
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        last = "\n".join(lines[-SHOWN:])
        raise ValueError(f"{step.machine}: the step did not compile:\n{last}")
    # The compilers may print before it.
    return json.loads(ended.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    settings = json.load(sys.stdin)
    print(json.dumps(step_cost(FittedStep(**settings))))
