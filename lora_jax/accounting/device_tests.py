"""The tests of what is computed, on the device at hand.

Results are the same everywhere up to rounding, but compilers and kernels are not: cuDNN
has an attention of its own, and float32 products are not float32 unless they are asked
to be.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lora_jax.accounting.measure_apart import SHOWN, TIME_IS_UP, Deadline, LeftOut

REPOSITORY = Path(__file__).resolve().parents[2]
GROUPS: dict[str, tuple[str, ...]] = {
    "methods": ("tests/methods",),
    "quantization": ("tests/quant",),
    "layers and attention": ("tests/nn",),
    "activations in bfloat16": ("tests/train/test_activations.py",),
    "steps": (
        "tests/train/test_step.py",
        "tests/train/test_cross_entropy.py",
        "tests/train/test_chunked.py",
        "tests/train/test_packing.py",
    ),
    "populations": ("tests/train/test_fit_many.py",),
    # What runs in no time, for a smoke run.
    "trees": ("tests/test_tree.py",),
}
"""Files of tests by the name of their group."""

# More processes than these would wait for the device.
MOST_WORKERS = 6
LISTED = 20  # of the tests that failed
ENVIRONMENT = {
    # As users compile, not as the tests do on a processor.
    "XLA_FLAGS": "",
    # Each process takes what it needs.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    # A GPU multiplies float32 in 19 bits otherwise.
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
}


def run(group: str, deadline: Deadline) -> dict[str, Any] | LeftOut:
    """Return the row of a group of tests, or why there is none.

    `metrics` are the numbers of tests that passed, failed and were skipped; `failed`
    names those that failed.
    """
    if deadline.left <= 0:
        return LeftOut(TIME_IS_UP)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        try:
            ended = _pytest(GROUPS[group], report, deadline.left)
        except subprocess.TimeoutExpired:
            return LeftOut(TIME_IS_UP)
        # Without a report there was not even a test to fail.
        if not report.exists():
            lines = (ended.stdout + ended.stderr).strip().splitlines()
            return LeftOut("\n".join(lines[-SHOWN:]))
        row = _row(ElementTree.parse(report).iter("testcase"))
    return {**row, "seconds": round(time.monotonic() - start, 3)}


def _pytest(
    files: Sequence[str], report: Path, seconds: float
) -> subprocess.CompletedProcess:
    workers = min(MOST_WORKERS, (os.cpu_count() or 1) // 2)
    command = [
        *(sys.executable, "-m", "pytest", "-q"),
        *("-n", str(workers if workers > 1 else 0)),
        # A new release's warning is no mistake of the device.
        *("-W", "ignore", "-p", "no:cacheprovider"),
        f"--junit-xml={report}",
        *files,
    ]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**_environment(), **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def _environment() -> Mapping[str, str]:
    # Those of pytest are about the tests that this process may itself be in.
    kept = {}
    for name, value in os.environ.items():
        if not name.startswith("PYTEST_"):
            kept[name] = value
    return kept


def _row(cases: Any) -> dict[str, Any]:
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failed = []
    for case in cases:
        outcome = _outcome(case)
        counts[outcome] += 1
        if outcome == "failed":
            failed.append(f"{case.get('classname')}.{case.get('name')}")
    metrics = {f"tests/{outcome}": count for outcome, count in counts.items()}
    return {"metrics": metrics, "failed": sorted(failed)[:LISTED]}


def _outcome(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    if kinds & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in kinds else "passed"
