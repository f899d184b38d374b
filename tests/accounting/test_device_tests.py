"""The tests that are run on a device, and what a row says of them."""

import subprocess

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


@pytest.fixture
def calls(monkeypatch):
    """The commands, each of which writes the report above."""
    commands = []

    def run(command, **options):
        commands.append((command, options))
        (path,) = [word for word in command if word.startswith("--junit-xml=")]
        with open(path.partition("=")[2], "w") as file:
            file.write(REPORT)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_row_counts_the_tests_and_names_those_that_failed(calls):
    row = device_tests.run("methods", in_minutes(1))
    assert row["metrics"] == {
        "tests/passed": 1,
        "tests/failed": 2,
        "tests/skipped": 1,
    }
    assert row["failed"] == ["tests.a.test_two", "tests.b.test_four"]
    assert row["seconds"] >= 0


def test_they_run_as_users_compile_and_not_in_the_tests_around_them(calls, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--some_flag")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--exitfirst")
    device_tests.run("methods", in_minutes(1))
    ((command, options),) = calls
    assert command[-1] == "tests/methods"
    environment = options["env"]
    assert environment["XLA_FLAGS"] == ""
    assert environment["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"
    assert not [name for name in environment if name.startswith("PYTEST_")]
    assert 0 < options["timeout"] <= 60


def test_when_time_is_up_none_is_begun(calls):
    answer = device_tests.run("methods", in_minutes(0))
    assert isinstance(answer, LeftOut) and str(answer) == TIME_IS_UP
    assert calls == []


def test_tests_that_take_too_long_are_left_out(monkeypatch):
    def run(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    assert str(device_tests.run("methods", in_minutes(1))) == TIME_IS_UP


def test_without_a_report_the_last_lines_say_why(monkeypatch):
    def run(command, **options):
        return subprocess.CompletedProcess(command, 4, "no pytest\n", "here\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert str(device_tests.run("methods", in_minutes(1))) == "no pytest\nhere"
