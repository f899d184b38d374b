"""What a run was made with: package versions, commit, machine, date."""

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

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "lora_jax")
_ROOT = Path(__file__).resolve().parents[2]


def provenance() -> dict[str, Any]:
    """What a run is made with: versions, commit, machine and date; no name of a host, user or folder."""
    import jax  # takes longer to import than rows take to render

    return {
        "versions": {name: _version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        **_commit(),
        "machine": {
            "platform": platform.platform(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_gib": round(
                os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1
            ),
            "backend": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> dict[str, Any]:
    """The commit of the checkout; results written beside the code do not make it dirty."""
    git = ["git", "--no-optional-locks", "-C", str(_ROOT)]
    asked = (
        ["rev-parse", "HEAD"],
        ["status", "--porcelain", "--", ".", ":(exclude)results"],
    )
    try:
        if not (
            _ROOT / ".git"
        ).exists():  # an installed package may lie inside somebody else's repository
            raise FileNotFoundError
        run = [
            subprocess.run(
                git + a, capture_output=True, text=True, check=True, timeout=10
            ).stdout
            for a in asked
        ]
    except (OSError, subprocess.SubprocessError):
        return {"commit": "unknown", "dirty": None}
    return {"commit": run[0].strip(), "dirty": bool(run[1].strip())}


def _cpu() -> str:
    try:
        named = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        named = None
    return named[1] if named else platform.processor() or "unknown"


def reset_peak() -> None:
    """Let `peak_mb` start anew, where the system can (Linux); elsewhere it is that of the whole process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Peak memory since `reset_peak`: of the accelerator if it says, else the process's resident set."""
    import jax

    device = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in device:
        return round(device["peak_bytes_in_use"] / 1e6, 1)
    try:
        status = Path("/proc/self/status").read_text()
        kilobytes = int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / 1e3, 1)
