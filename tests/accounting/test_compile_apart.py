"""A step that is compiled in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from lora_jax.accounting import compile_apart, fitted_step
from tests.accounting.test_fitted_step import STEP


def test_this_machine_s_step_is_compiled_here(monkeypatch):
    monkeypatch.setattr(compile_apart, "step_cost", lambda step: {"step": step})
    assert compile_apart.cost(STEP) == {"step": STEP}


def test_the_process_returns_what_the_function_does():
    ended = subprocess.run(
        [sys.executable, "-m", compile_apart.MODULE],
        input=json.dumps(STEP._asdict()),
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == fitted_step.step_cost(STEP)


def test_described_devices_are_compiled_for_apart(monkeypatch):
    calls = []

    def run(command, **options):
        calls.append((command, options))
        answer = json.dumps({"compiler": "a compiler"})
        return subprocess.CompletedProcess(command, 0, f"a note\n{answer}\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    step = STEP._replace(machine="h100")
    assert compile_apart.cost(step) == {"compiler": "a compiler"}
    ((command, options),) = calls
    assert command[-1] == compile_apart.MODULE
    assert json.loads(options["input"]) == step._asdict()
    assert options["env"]["JAX_PLATFORMS"] == "cpu"
    # Flags of this machine's compiler are not the other's.
    assert "XLA_FLAGS" not in options["env"]


def test_a_process_that_fails_is_one_message(monkeypatch):
    def run(command, **_):
        errors = "".join(f"line {number}\n" for number in range(9))
        return subprocess.CompletedProcess(command, 1, "", errors)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ValueError) as error:
        compile_apart.cost(STEP._replace(machine="v5e-1"))
    message = str(error.value)
    assert message.startswith("v5e-1: the step did not compile:\nline 4\n")
    assert message.endswith("line 8")
