"""How a script's process is set up, and how it ends: with a message, not a trace."""

import errno
import signal
import sys
from types import SimpleNamespace

import pytest

from lora_jax import devices
from lora_jax.experiment import process
from tests.experiment import scripts


class TestRunMain:
    def test_where_all_goes_well_it_returns(self, capsys):
        process.run_main(lambda: print("done"))
        assert capsys.readouterr().out == "done\n"

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (ValueError("rank: expected 1"), "error: rank: expected 1"),
            (FileNotFoundError("no data"), "error: no data"),
            (ConnectionError("no hub"), "error: no hub"),
        ],
    )
    def test_a_users_error_is_one_message(self, error, text):
        def main():
            raise error

        with pytest.raises(SystemExit) as ended:
            process.run_main(main)
        # Python prints it on standard error, and ends with 1.
        assert ended.value.code == text

    def test_a_fault_of_the_program_keeps_its_trace(self):
        with pytest.raises(KeyError):
            process.run_main(lambda: {}["rank"])

    def test_ctrl_c_says_that_the_same_command_continues(self, capsys):
        def main():
            raise KeyboardInterrupt

        with pytest.raises(SystemExit) as ended:
            process.run_main(main)
        assert ended.value.code == 130
        assert capsys.readouterr().err == (
            "interrupted: finished runs are kept; the same command continues\n"
        )


class TestInterrupt:
    def test_ctrl_c_in_a_training_is_one_message(self, tmp_path):
        """jax swallows exceptions of Python that it calls; a trace helps nobody."""
        with scripts.start("rank_sweep", "--out", str(tmp_path), cache=tmp_path) as run:
            scripts.read_until(run, "[1/")
            run.send_signal(signal.SIGINT)
            assert run.stderr is not None
            assert run.stderr.read().strip() == process.INTERRUPTED
        assert run.returncode == 130

    def test_a_full_disk_says_what_is_kept(self):
        def main():
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(SystemExit) as ended:
            process.run_main(main)
        assert str(ended.value.code).endswith(
            "No space left on device; finished runs are kept: make room and run the "
            "command again"
        )


class TestPipe:
    @pytest.mark.parametrize(
        # Either a flushed line finds nobody, or what is left at the exit does.
        "last_line",
        ["LoRA Tables 2 to 5", "13 rows, 0 of them there already"],
    )
    def test_a_reader_that_stops_gets_no_trace(self, tmp_path, last_line):
        # Nothing is trained: it counts parameters, and takes a second.
        words = ("--out", str(tmp_path))
        with scripts.start("trainable_params", *words, cache=tmp_path) as script:
            scripts.read_until(script, last_line)
            assert scripts.stop_reading(script) == ""
        assert script.returncode == 1


class TestPrepare:
    @pytest.mark.parametrize("cores_as_devices", [True, False])
    def test_compiled_programs_are_kept(self, monkeypatch, tmp_path, cores_as_devices):
        settings = {}
        calls = []
        # The tests' own process stays as it is.
        config = SimpleNamespace(update=settings.__setitem__)
        monkeypatch.setattr(process, "jax", SimpleNamespace(config=config))
        monkeypatch.setattr(devices, "cores_as_devices", lambda: calls.append("cores"))
        monkeypatch.setenv("LORA_JAX_CACHE", str(tmp_path))
        process.prepare(cores_as_devices=cores_as_devices)
        assert settings["jax_compilation_cache_dir"] == str(tmp_path / "xla")
        assert calls == ["cores"] * cores_as_devices


class TestHugePages:
    @pytest.fixture
    def restarts(self, monkeypatch, tmp_path) -> list:
        """The commands that the process starts anew with, on a Linux that waits."""
        commands = []
        enabled = tmp_path / "enabled"
        enabled.write_text("always [madvise] never\n")

        def execv(program, command):
            commands.append(command)

        monkeypatch.setattr(process, "HUGE_PAGES", enabled)
        monkeypatch.setattr(process.os, "execv", execv)
        monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "toy.py", "-h"])
        monkeypatch.setenv("GLIBC_TUNABLES", "")
        return commands

    def test_the_same_command_starts_anew(self, restarts):
        process.use_huge_pages()
        assert restarts == [[sys.executable, "-X", "dev", "toy.py", "-h"]]
        assert process.os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"

    def test_but_once(self, restarts):
        process.use_huge_pages()
        process.use_huge_pages()
        assert len(restarts) == 1

    def test_other_tunables_stay(self, restarts, monkeypatch):
        monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
        process.use_huge_pages()
        tunables = process.os.environ["GLIBC_TUNABLES"]
        assert tunables == "glibc.malloc.check=3:glibc.malloc.hugetlb=1"

    @pytest.mark.parametrize("text", ["[always] madvise never", "always [never]"])
    def test_a_linux_that_does_not_wait_is_left_alone(self, restarts, text):
        process.HUGE_PAGES.write_text(text)
        process.use_huge_pages()
        assert restarts == []

    def test_another_system_is_left_alone(self, restarts):
        process.HUGE_PAGES.unlink()
        process.use_huge_pages()
        assert restarts == []

    def test_an_accelerator_is_left_alone(self, restarts, monkeypatch):
        monkeypatch.setattr(process.jax, "default_backend", lambda: "gpu")
        process.use_huge_pages()
        assert restarts == []
