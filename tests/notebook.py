"""Notebooks without Jupyter: run the code cells of one, and compare or keep the outputs.

Our notebooks only print, so the cells are executed in one namespace and what they print
is their output. That needs no kernel and no package. `test_docs.py` runs the notebooks;
this command runs one and writes what it prints into the file:

    python tests/notebook.py docs/quickstart.ipynb
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
Cell = dict[str, Any]


def read(path: Path) -> Notebook:
    """Return the notebook of a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, notebook: Notebook) -> None:
    """Write a notebook as Jupyter does, so that a change of a cell is a small diff."""
    # One space and no escapes: Jupyter's own form.
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def code_cells(notebook: Notebook) -> list[Cell]:
    """Return the cells that hold code, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(cell: Cell) -> str:
    """Return the text that the file keeps as the output of a cell."""
    texts = []
    for output in cell["outputs"]:
        # A list of lines.
        texts += output["text"]
    return "".join(texts)


def run(notebook: Notebook) -> list[str]:
    """Return what each code cell prints, all of them run in order in one namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    texts = []
    # Counted from 1, as Jupyter does.
    for number, cell in enumerate(code_cells(notebook), start=1):
        source = "".join(cell["source"])
        # The name stands in tracebacks.
        code = compile(source, f"cell {number}", "exec")
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            exec(code, namespace)
        texts.append(stream.getvalue())
    return texts


def keep_outputs(notebook: Notebook, texts: list[str]) -> None:
    """Put what the code cells printed into the notebook."""
    cells = code_cells(notebook)
    pairs = zip(cells, texts, strict=True)
    for number, (cell, text) in enumerate(pairs, start=1):
        cell["execution_count"] = number
        cell["outputs"] = []
        # A cell that prints nothing has no output at all.
        if text:
            lines = text.splitlines(keepends=True)
            output = {"name": "stdout", "output_type": "stream", "text": lines}
            cell["outputs"].append(output)


def main(path: Path) -> None:
    """Run a notebook and write its outputs into its file."""
    path = path.resolve()
    notebook = read(path)
    # Cells may write files, which nobody wants beside the notebook.
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        texts = run(notebook)
        os.chdir(path.parent)
    keep_outputs(notebook, texts)
    write(path, notebook)
    print("\n".join(texts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
