"""How a script's process is set up: compiled programs, devices, memory, and errors."""

from lora_jax.interrupts import INTERRUPTED, end_quietly
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import jax

from lora_jax import devices, download, hosts
from lora_jax.experiment import adapters
from lora_jax.experiment.cli import Command
from lora_jax.experiment.config import FITTED

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLE = "glibc.malloc.hugetlb=1"


def prepare(*, cores_as_devices: bool) -> None:
    """Keep compiled programs between runs and, if wanted, make each core a device.

    From here on Ctrl-C ends the process at once.

    A device for each core pays for encoders. A language model's step takes 1.1 to 1.2
    times as long so, for each device reads and dequantizes all the weights, and a
    generated token takes 1.5 times as long.
    """
    end_quietly()
    jax.config.update("jax_compilation_cache_dir", str(download.cache_folder() / "xla"))
    # Programs that compile faster than this are not worth a file.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if cores_as_devices:
        devices.cores_as_devices()


def use_huge_pages() -> None:
    """Start this script anew with an allocator that asks Linux for huge pages.

    Only where Linux waits to be asked, and on a CPU. A step's temporary memory is new
    to the process each time; touching it page by page takes 15 % of a step.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    waits = HUGE_PAGES.exists() and "[madvise]" in HUGE_PAGES.read_text()
    if not waits or "hugetlb" in tunables or jax.default_backend() != "cpu":
        return
    # Other tunables of the user's stay.
    settings = [tunables, TUNABLE] if tunables else [TUNABLE]
    os.environ["GLIBC_TUNABLES"] = ":".join(settings)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextmanager
def together(command: Command, name: str) -> Iterator[Command]:
    """Join the processes that run an experiment together, if there are several.

    Each of them makes the same rows. The first one's are the experiment's; the others
    begin with a copy of what is there, write to a folder that is removed in the end,
    and print errors alone. Yields the command with this process's folder.
    """
    if not command.coordinator:
        if (command.processes, command.process_index) != (1, 0):
            raise ValueError(
                "processes, process_index: expected --coordinator with them, the "
                "first process's HOST:PORT"
            )
        yield command
        return
    hosts.connect(command.coordinator, command.processes, command.process_index)
    hosts.check_same(_settings(command))
    present = hosts.agreed(lambda: _files(command.out, name))
    if hosts.is_first():
        yield command
        return
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        out = Path(folder)
        for path, content in present.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(content)
        with redirect_stdout(nowhere):
            yield command._replace(out=out)


def _settings(command: Command) -> dict[str, str]:
    """What all processes must have been told alike, as texts by flag."""
    settings = command._asdict()
    # A process's number is its own, and of the folders only the first one's counts.
    for name in ("process_index", "out", "options", "run"):
        del settings[name]
    settings |= vars(command.options)
    if command.run is not None:
        settings |= command.run.flat()
        for name in FITTED:
            settings[name] = getattr(command.run.train, name)
    return {name: str(value) for name, value in settings.items()}


def _files(out: Path, name: str) -> dict[str, bytes]:
    """The contents of an experiment's rows and of what was kept, by path in `out`."""
    paths = [out / f"{name}.jsonl", *(out / adapters.FOLDER).glob("*.*")]
    contents = {}
    for path in paths:
        # A training that is not finished is a folder, and is the first process's.
        if path.is_file():
            contents[str(path.relative_to(out))] = path.read_bytes()
    return contents


def run_main(main: Callable[[], None]) -> None:
    """Run a script's main; an error is one message on standard error, not a trace."""
    try:
        _flushed(main)
    except BrokenPipeError:
        # As from `| head`: nobody reads on. Python would complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as error:
        message = f"error: {error}"
        # The system's own text names neither what is lost nor what to do.
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            message += "; finished runs are kept: make room and run the command again"
        sys.exit(message)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)


def _flushed(main: Callable[[], None]) -> None:
    """Run main and write what it printed.

    What Python writes when it closes stdout can no longer be an error of ours.
    """
    # Also where the script exits by itself, as after --help.
    try:
        main()
    finally:
        sys.stdout.flush()
