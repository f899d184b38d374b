"""The tests that are run on a device, and what a row says of them."""

import subprocess
from pathlib import Path

import pytest

from lora_jax.accounting import device_tests
from lora_jax.accounting.measure_apart import TIME_IS_UP, LeftOut, in_minutes

REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_one"/>
<testcase classname="tests.a" name="test_two"><failure message="no"/></testcase>
<testcase classname="tests.b" name="test_three"><skipped/></testcase>
<testcase classname="tests.b" name="test_four"><error/></testcase>
</testsuite></testsuites>"""


def test_every_group_is_of_files_that_are_there():
    for files in device_tests.GROUPS.values():
        for file in files:
            assert (device_tests.REPOSITORY / file).exists()


class Ended:
    """A process that wrote the report above, if it is to write one."""

    def __init__(self, command, report=REPORT, seconds=0.0, **options):
        self.command, self.options, self.seconds = command, options, seconds
        self.killed = False
        (path,) = [word for word in command if word.startswith("--junit-xml=")]
        if report:
            Path(path.partition("=")[2]).write_text(report)

    def communicate(self, timeout=None):
        if timeout is not None and timeout < self.seconds:
            raise subprocess.TimeoutExpired(self.command, timeout)
        return "no pytest\nhere\n", None

    def kill(self):
        self.killed = True


@pytest.fixture
def started(monkeypatch):
    """The processes that were started; values that they are made with."""
    processes = []
    values = {}

    def start(command, **options):
        processes.append(Ended(command, **values, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return processes, values


def test_a_row_counts_the_tests_and_names_those_that_failed(started):
    (row,) = device_tests.run(["methods"], in_minutes(1))
    assert row["metrics"] == {
        "tests/passed": 1,
        "tests/failed": 2,
        "tests/skipped": 1,
    }
    assert row["failed"] == ["tests.a.test_two", "tests.b.test_four"]
    assert row["seconds"] >= 0


def test_they_run_as_users_compile_and_not_in_the_tests_around_them(
    started, monkeypatch
):
    monkeypatch.setenv("XLA_FLAGS", "--some_flag")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--exitfirst")
    list(device_tests.run(["methods"], in_minutes(1)))
    ((process,), _) = started
    assert process.command[-1] == "tests/methods"
    environment = process.options["env"]
    assert environment["XLA_FLAGS"] == ""
    assert environment["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"
    assert not [name for name in environment if name.startswith("PYTEST_")]


def test_all_groups_are_started_before_the_first_is_waited_for(started):
    rows = device_tests.run(["methods", "steps", "trees"], in_minutes(1))
    next(rows)
    assert len(started[0]) == 3
    # What nobody waits for any more is ended.
    rows.close()
    assert all(process.killed for process in started[0])


def test_when_time_is_up_none_is_begun(started):
    answers = list(device_tests.run(["methods", "steps"], in_minutes(0)))
    assert all(isinstance(answer, LeftOut) for answer in answers)
    assert [str(answer) for answer in answers] == [TIME_IS_UP] * 2
    assert started[0] == []


def test_tests_that_take_too_long_are_left_out_and_ended(started):
    processes, values = started
    values["seconds"] = 90.0
    (answer,) = device_tests.run(["methods"], in_minutes(1))
    assert str(answer) == TIME_IS_UP
    assert processes[0].killed


def test_without_a_report_the_last_lines_say_why(started):
    started[1]["report"] = ""
    (answer,) = device_tests.run(["methods"], in_minutes(1))
    assert str(answer) == "no pytest\nhere"
