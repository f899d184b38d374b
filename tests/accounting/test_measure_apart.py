"""Processes of their own: what they answer, what fails, and when time is up."""

import io
import json
import subprocess
import sys

import pytest

from lora_jax.accounting import measure_apart
from lora_jax.accounting.measure_apart import LeftOut, in_minutes

# As the module does: prints a note, and answers what it is asked.
ANSWERING = """
import json, sys, time
asked = json.load(sys.stdin)
print("a note")
time.sleep(asked.get("sleep", 0))
if "error" in asked:
    sys.exit("line 1\\n" + asked["error"])
print(json.dumps({"asked": asked}))
"""


@pytest.fixture
def started(monkeypatch):
    """The processes that were started, of Python alone."""
    processes = []

    def start(module):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-S", "-c", ANSWERING]
        processes.append(subprocess.Popen(command, text=True, **pipes))
        return processes[-1]

    monkeypatch.setattr(measure_apart, "_start", start)
    return processes


def test_each_process_answers_one_question(started):
    questions = [{"number": number} for number in range(3)]
    answers = list(measure_apart.answers("module", questions, in_minutes(1)))
    assert answers == [{"asked": question} for question in questions]
    assert len(started) == 3


def test_the_next_process_is_started_while_one_is_asked(started):
    answers = measure_apart.answers("module", [{}, {}, {}], in_minutes(1))
    next(answers)
    assert len(started) == 2
    # One that nobody asks anything is ended.
    answers.close()
    assert started[1].returncode not in (None, 0)


def test_a_process_that_fails_is_left_out_and_the_others_are_not(started):
    questions = [{"error": "out of memory"}, {}]
    failed, answer = measure_apart.answers("module", questions, in_minutes(1))
    assert isinstance(failed, LeftOut)
    assert str(failed) == "line 1\nout of memory"
    assert answer == {"asked": {}}


def test_what_takes_too_long_is_ended_and_nothing_more_is_begun(started):
    questions = [{"sleep": 60}, {}, {}]
    answers = list(measure_apart.answers("module", questions, in_minutes(0.002)))
    assert [str(answer) for answer in answers] == [measure_apart.TIME_IS_UP] * 3
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


def test_the_command_is_that_of_the_module_and_takes_the_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **options: calls.append((command, options))
    )
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    monkeypatch.setenv("PIP_RETRIES", "3")
    measure_apart._start("some.module")
    ((command, options),) = calls
    assert command[1:] == ["-m", measure_apart.MODULE, "some.module"]
    # The process that starts it leaves it the device's memory.
    assert options["env"]["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
    # What the user has set stays.
    assert options["env"]["PIP_RETRIES"] == "3"


def test_the_process_prints_what_the_module_measures(monkeypatch, capsys):
    module = type(sys)("measuring")
    module.measure = lambda settings: {"twice": 2 * settings["number"]}
    monkeypatch.setitem(sys.modules, "measuring", module)
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"number": 4}'))
    measure_apart.main("measuring")
    assert json.loads(capsys.readouterr().out) == {"twice": 8}


def test_an_error_of_the_module_is_one_line(monkeypatch):
    module = type(sys)("measuring")

    def measure(settings):
        raise ValueError("expected torch")

    module.measure = measure
    monkeypatch.setitem(sys.modules, "measuring", module)
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}"))
    with pytest.raises(SystemExit) as caught:
        measure_apart.main("measuring")
    assert caught.value.code == "expected torch"


def test_a_process_leaves_a_gpu_s_memory_unless_it_is_told(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    measure_apart.leave_memory()
    assert measure_apart.os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    measure_apart.leave_memory()
    assert measure_apart.os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
