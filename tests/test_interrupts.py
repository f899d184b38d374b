"""Ctrl-C while a script is still importing is one line, as it is later."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lora_jax import interrupts

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "experiments").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_is_what_a_script_imports_first(script):
    tree = ast.parse(script.read_text(encoding="utf-8"))
    imports = []
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imports.append(ast.unparse(statement))
    assert imports[0] == "import lora_jax.interrupts"


def test_ctrl_c_during_the_imports_is_one_line(tmp_path):
    # In the place of a library that takes seconds.
    slow = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    (tmp_path / "pandas.py").write_text(slow)
    folders = os.pathsep.join([str(tmp_path), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / "rank_sweep.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": folders},
    ) as script:
        assert script.stdout is not None
        assert script.stderr is not None
        assert script.stdout.readline() == "importing\n"
        # Twice, as a process and its group may be sent it.
        script.send_signal(signal.SIGINT)
        script.send_signal(signal.SIGINT)
        assert script.stderr.read().strip() == interrupts.INTERRUPTED
    assert script.returncode == 130


def test_a_process_that_imports_it_stops_as_before():
    # In a process of its own: that of the tests may have been told to ignore the signal.
    code = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lora_jax import interrupts\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
