"""Experiments as processes of their own, as people start them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(name: str, *words: str, cache: Path) -> subprocess.Popen:
    """Start the smoke preset of an experiment, which keeps its programs in `cache`."""
    command = [sys.executable, str(ROOT / "experiments" / f"{name}.py")]
    environment = {
        **os.environ,
        "LORA_JAX_CACHE": str(cache),
        # This checkout's library, whatever is installed.
        "PYTHONPATH": str(ROOT),
    }
    # Lines stay with the script until it flushes them, as they do by default.
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.Popen(
        [*command, "--preset", "smoke", "--no-huge-pages", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def read_until(script: subprocess.Popen, start_of_line: str) -> str:
    """Return what a script prints up to a line that starts so."""
    assert script.stdout is not None
    text = ""
    for line in script.stdout:
        text += line
        if line.startswith(start_of_line):
            return text
    raise AssertionError(f"no line starts with {start_of_line!r}: {text}")


def stop_reading(script: subprocess.Popen) -> str:
    """Close the script's output, as `| head` does; return what it says of that."""
    assert script.stdout is not None
    assert script.stderr is not None
    script.stdout.close()
    return script.stderr.read()


def read_all(script: subprocess.Popen) -> str:
    """Return what a script that succeeds prints from here on."""
    assert script.stdout is not None
    assert script.stderr is not None
    # Not by `communicate`, which forgets what `read_until` has read ahead.
    text = script.stdout.read()
    errors = script.stderr.read()
    assert script.wait() == 0, errors
    return text
