"""An experiment of two processes, each with devices of its own: the rows of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lora_jax import results

ROOT = Path(__file__).resolve().parents[2]

# The sweep of `toy.py`, saved before each eighth step. A process that is told to dies
# before the step of that number, without a word.
SCRIPT = """
import os
import signal
import sys

from lora_jax.experiment import process
from lora_jax.train import state
from lora_jax.train.state import Saver
from tests.experiment.toy import RANKS

state.SECONDS_BETWEEN_SAVES = 0.0
state.STEPS_BETWEEN_QUESTIONS = 2
dies_at = int(os.environ.get("DIES_AT", 0))
is_due = Saver.is_due
steps = 0


def is_due_or_dead(saver):
    global steps
    steps += 1
    if steps == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return is_due(saver)


Saver.is_due = is_due_or_dead
process.run_main(lambda: RANKS.main(sys.argv[1:]))
"""


def free_address() -> str:
    """An address on this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"


def start(out: Path, *words: str, devices: int, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "--out", str(out), *words],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(out: Path, *words: str, dies_at: int = 0) -> list[subprocess.Popen]:
    """Start two processes of one device each; the second one dies at a step."""
    address = free_address()
    processes = []
    for index in range(2):
        processes.append(
            start(
                out if index == 0 else out / "second",
                *words,
                "--coordinator",
                address,
                "--processes",
                "2",
                "--process-index",
                str(index),
                devices=1,
                DIES_AT=str(dies_at if index else 0),
            )
        )
    return processes


def outputs(processes) -> list[str]:
    """What processes that succeed print."""
    texts = []
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        texts.append(output)
    return texts


def numbers(out: Path) -> list[list[float]]:
    """The mean losses and the scores of each row."""
    rows = results.read(out / "ranks.jsonl")
    return [[*row["loss"], *row["metrics"].values()] for row in rows]


def test_two_processes_make_the_rows_of_one_and_go_on_where_one_was_killed(tmp_path):
    words = ("--ranks", "1", "2")
    alone = tmp_path / "alone"
    outputs([start(alone, *words, devices=2)])
    expected = numbers(alone)

    # The second row's training is under way when one of them dies.
    both = tmp_path / "both"
    first, second = start_two(both, *words, dies_at=8)
    second.communicate(timeout=300)
    assert second.returncode == -9
    _, errors = first.communicate(timeout=300)
    assert first.returncode, "the first process waits for the second no longer"
    assert numbers(both) == [pytest.approx(expected[0])]
    assert list(both.glob("adapters/*.partial")), errors

    first_text, second_text = outputs(start_two(both, *words))
    assert "2 rows, 1 of them there already" in first_text
    # One process writes and speaks; the second's only line is its network's.
    assert second_text.count("\n") == second_text.count("[Gloo]")
    assert not (both / "second").exists()
    for ours, theirs in zip(numbers(both), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert not list(both.glob("adapters/*.partial"))


def test_processes_with_other_flags_do_not_begin(tmp_path):
    words = ("--coordinator", free_address(), "--processes", "2", "--process-index")
    first = start(tmp_path, "--ranks", "1", *words, "0", devices=1)
    second = start(tmp_path, "--ranks", "2", *words, "1", devices=1)
    _, first_errors = first.communicate(timeout=300)
    _, second_errors = second.communicate(timeout=300)
    assert first.returncode == second.returncode == 1
    assert "others have 1, which says which" in first_errors
    assert "(process_index 1) has ranks (2,), not (1,)" in second_errors
    assert not (tmp_path / "ranks.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--coordinator", "here"],
            "coordinator: expected the first process's HOST:PORT",
        ),
        (
            [
                "--coordinator",
                "localhost:1",
                "--processes",
                "2",
                "--process-index",
                "2",
            ],
            "this one's number from 0, got 2 and 2",
        ),
        (["--processes", "2"], "processes, process_index: expected --coordinator"),
        (
            ["--coordinator", "cluster"],
            "the environment is none of SLURM, MPI or a TPU",
        ),
    ],
)
def test_processes_that_cannot_be_joined_are_one_error(words, message, tmp_path):
    process = start(tmp_path, *words, devices=1)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert message in errors
    assert "Traceback" not in errors
