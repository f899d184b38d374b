"""The command line of an experiment, derived from its configuration; and how a script runs its main."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from lora_jax import devices, download


def script(main: Callable[[], None], *, cores: bool = True) -> None:
    """Run an experiment's main: compiled programs are kept between runs, and an error is one message, not a trace.

    With `cores` each core of a CPU is a device, which pays for encoders. A language model's step takes 1.1 to 1.2 times as long so,
    for each device reads, and dequantises, all the weights; and a token of generation 1.5 times.
    """
    jax.config.update("jax_compilation_cache_dir", str(download.cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if cores:
        devices.cores_as_devices()
    try:
        main()
    except BrokenPipeError:  # as from `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(
            "interrupted: finished cells are kept, the same command goes on with the others",
            file=sys.stderr,
        )
        sys.exit(130)


def line(
    config: type,
    presets: Mapping[str, Any],
    doc: str | None,
    arguments: Sequence[str] | None = None,
) -> Any:
    """The configuration of a preset (`--preset`, default quick), changed by every other flag; exits on a bad one."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = value("--preset", given)
    name = "quick" if asked is None else asked
    if name not in presets:
        sys.exit(f"error: --preset: expected one of {', '.join(presets)}, got {name!r}")
    made = tyro.cli(config, default=presets[name], args=given, description=doc)
    if arguments is None:
        _use_huge_pages()
    return made


def value(flag: str, arguments: Sequence[str] | None = None) -> str | None:
    """What a flag is given on the command line, before that is parsed: the last, "" for nothing, None where it is not there."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = [i for i, word in enumerate(given) if word.partition("=")[0] == flag]
    if not at:
        return None
    return given[at[-1]].partition("=")[2] or (
        given[at[-1] + 1] if at[-1] + 1 < len(given) else ""
    )


def _use_huge_pages() -> None:
    """Start this script anew with an allocator that asks Linux for huge pages, where Linux waits to be asked.

    A step's temporary memory is new to the process each time; touching it page by page takes 15 % of a step on CPU.
    """
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    asked = (
        not mode.exists()
        or "[madvise]" not in mode.read_text()
        or "hugetlb" in tunables
    )
    if not asked and jax.default_backend() == "cpu":
        os.environ["GLIBC_TUNABLES"] = ":".join(
            filter(None, [tunables, "glibc.malloc.hugetlb=1"])
        )
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
