"""What a run was made with: package versions, commit, machine, date, and peak memory.

Rows are published with the repository, so nothing here names a host, a user or a folder.
"""

import contextlib
import os
import platform
import re
import resource
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "lora_jax")
REPOSITORY = Path(__file__).resolve().parents[2]
# Results are written beside the code: they do not make it another code.
STATUS = ("status", "--porcelain", "--", ".", ":(exclude)results")
GIT_SECONDS = 10  # on a network drive `git status` may hang


def provenance() -> dict[str, Any]:
    """Return the versions, the commit, the machine and the date (UTC) of this process."""
    return {
        "versions": _versions(),
        **_commit(),
        "machine": _machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def reset_peak() -> None:
    """Let `peak_mb` start anew, where the system can (Linux).

    Elsewhere the peak is that of the whole process.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Return the peak memory since `reset_peak`, in MB (10^6 bytes).

    It is the accelerator's if that keeps count, else the process's resident set.
    """
    # The CPU backend has no statistics.
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return round(statistics["peak_bytes_in_use"] / 1e6, 1)
    return round(_resident_kilobytes() / 1e3, 1)


def _versions() -> dict[str, str]:
    versions = {name: _version(name) for name in PACKAGES}
    versions["python"] = platform.python_version()
    return versions


def _version(package: str) -> str:
    # Code that is run from a folder need not be installed.
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> dict[str, Any]:
    """The commit of the checkout, and whether the code differs from it."""
    unknown = {"commit": "unknown", "dirty": None}
    # An installed package may lie inside somebody else's repository.
    if not (REPOSITORY / ".git").exists():
        return unknown
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git(*STATUS)
    except (OSError, subprocess.SubprocessError):
        return unknown
    return {"commit": commit, "dirty": bool(changes)}


def _git(*words: str) -> str:
    """What git prints of the checkout, without waiting for another git."""
    command = ["git", "--no-optional-locks", "-C", str(REPOSITORY), *words]
    finished = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS
    )
    return finished.stdout.strip()


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # in bytes
    return {
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }


def _cpu() -> str:
    # Linux; `platform` has but the architecture there.
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    if match := re.search(r"model name\s*:\s*(.+)", text):
        return match[1]
    return platform.processor() or "unknown"


def _resident_kilobytes() -> int:
    """The largest resident set of the process, in kB."""
    # Linux keeps a peak that can be reset; `getrusage` has that of all time.
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
