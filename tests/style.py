"""How the code reads, in numbers: `python tests/style.py [FOLDER or FILE ...]` prints a line for each file.

`test_style.py` keeps the bounds. What is counted:

- density: syntax nodes (every node of `ast.walk`) for each line of code; blank lines, comments and docstrings are no code.
- comprehensions, and those inside another comprehension.
- comments: lines with a comment, pragmas left out, of all lines.
- filler names: bound names that say nothing, see `FILLERS`.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FILLERS = frozenset(
    [
        "found",
        "said",
        "made",
        "given",
        "each",
        "every",
        "at",
        "of",
        "how",
        "what",
        "whole",
        "wanted",
        "got",
        "taken",
        "told",
        "there",
        "shown",
        "rest",
        "most",
        "own",
    ]
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PRAGMA = re.compile(r"#\s*(noqa|fmt:|type:|pyright:|ruff:)")


class Style(NamedTuple):
    """The counts of one file."""

    nodes: int
    code_lines: int
    comment_lines: int
    lines: int
    comprehensions: int
    nested: list[int]  # line numbers of comprehensions that hold another
    fillers: list[tuple[int, str]]  # (line number, name)
    longest_function: tuple[int, str]  # (lines, name)

    @property
    def density(self) -> float:
        """Syntax nodes a line of code."""
        return self.nodes / max(1, self.code_lines)


def measure(path: Path) -> Style:
    """Count one Python file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    docstrings = _docstring_lines(nodes)
    code_lines = 0
    for number, line in enumerate(text.splitlines(), start=1):
        is_comment = line.lstrip().startswith("#")
        if line.strip() and not is_comment and number not in docstrings:
            code_lines += 1
    comprehensions = [node for node in nodes if isinstance(node, COMPREHENSIONS)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    lengths = [(node.end_lineno - node.lineno + 1, node.name) for node in functions]
    return Style(
        nodes=len(nodes),
        code_lines=code_lines,
        comment_lines=_comment_lines(text),
        lines=len(text.splitlines()),
        comprehensions=len(comprehensions),
        nested=[node.lineno for node in comprehensions if _holds_comprehension(node)],
        fillers=[(line, name) for line, name in _bound_names(nodes) if name in FILLERS],
        longest_function=max(lengths, default=(0, "")),
    )


def _docstring_lines(nodes: list[ast.AST]) -> set[int]:
    lines: set[int] = set()
    for node in nodes:
        if (
            isinstance(node, DOCUMENTED)
            and ast.get_docstring(node, clean=False) is not None
        ):
            docstring = node.body[0]
            lines.update(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def _comment_lines(text: str) -> int:
    count = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not PRAGMA.match(token.string):
            count += 1
    return count


def _holds_comprehension(node: ast.AST) -> bool:
    inner = list(ast.walk(node))[1:]
    return any(isinstance(part, COMPREHENSIONS) for part in inner)


def _bound_names(nodes: list[ast.AST]) -> Iterator[tuple[int, str]]:
    """Variables, parameters, functions, classes, fields and import aliases."""
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def files(places: list[str]) -> list[Path]:
    """The Python files of the places."""
    paths: list[Path] = []
    for place in map(Path, places):
        paths += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return paths


def main(places: list[str]) -> None:
    """Print a line for each file, and what stands out."""
    print("density  comprehensions/kloc  comments %  lines  longest function")
    for path in files(places):
        style = measure(path)
        rate = 1000 * style.comprehensions / max(1, style.lines)
        share = 100 * style.comment_lines / max(1, style.lines)
        length, name = style.longest_function
        print(
            f"{style.density:7.1f}  {rate:19.0f}  {share:10.1f}  {style.lines:5d}  {length:3d} {name:24s} {path}"
        )
        for line in style.nested:
            print(f"    {path}:{line}: a comprehension inside a comprehension")
        for line, name in style.fillers:
            print(f"    {path}:{line}: filler name {name!r}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["lora_jax", "experiments"])
