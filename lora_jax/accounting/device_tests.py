"""The tests of what is computed, on the device at hand.

Results are the same everywhere up to rounding, but compilers and kernels are not: cuDNN
has an attention of its own, and float32 products are not float32 unless they are asked
to be.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
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

LISTED = 20  # of the tests that failed
ENVIRONMENT = {
    # As users compile, not as the tests do on a processor.
    "XLA_FLAGS": "",
    # Each process takes what it needs.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    # A GPU multiplies float32 in 19 bits otherwise.
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
}


def run(
    groups: Sequence[str], deadline: Deadline
) -> Iterator[dict[str, Any] | LeftOut]:
    """Yield the row of each group of tests, or why there is none.

    `metrics` are the numbers of tests that passed, failed and were skipped; `failed`
    names those that failed. All groups run at once: most of their time is a
    processor's, which compiles.
    """
    if deadline.left <= 0:
        yield from itertools.repeat(LeftOut(TIME_IS_UP), len(groups))
        return
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        reports = [Path(folder) / f"{index}.xml" for index in range(len(groups))]
        processes = []
        for group, report in zip(groups, reports, strict=True):
            processes.append(_start(GROUPS[group], report, len(groups)))
        try:
            for process, report in zip(processes, reports, strict=True):
                row = _ended(process, report, deadline)
                if not isinstance(row, LeftOut):
                    row["seconds"] = round(time.monotonic() - start, 3)
                yield row
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _start(files: Sequence[str], report: Path, at_once: int) -> subprocess.Popen:
    """Start the tests of a group, one of so many."""
    workers = (os.cpu_count() or 1) // at_once
    command = [
        *(sys.executable, "-m", "pytest", "-q"),
        *("-n", str(workers if workers > 1 else 0)),
        # A new release's warning is no mistake of the device.
        *("-W", "ignore", "-p", "no:cacheprovider"),
        f"--junit-xml={report}",
        *files,
    ]
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**_environment(), **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _ended(
    process: subprocess.Popen, report: Path, deadline: Deadline
) -> dict[str, Any] | LeftOut:
    """Wait for a group's tests; return its row."""
    try:
        written, _ = process.communicate(timeout=max(0.0, deadline.left))
    except subprocess.TimeoutExpired:
        return LeftOut(TIME_IS_UP)
    # Without a report there was not even a test to fail.
    if not report.exists():
        lines = written.strip().splitlines()
        return LeftOut("\n".join(lines[-SHOWN:]))
    return _row(ElementTree.parse(report).iter("testcase"))


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
