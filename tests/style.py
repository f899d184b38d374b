"""How the code reads, in numbers: `python tests/style.py [FOLDER or FILE ...]`.

A line is printed for each file and below it what a reader stumbles over, then a line for
each package. `test_style.py` keeps the bounds. What is counted:

- density: syntax nodes (every node of `ast.walk`) for each line of code; blank lines,
  comments and docstrings are no code.
- comprehensions, those inside another one, and conditional expressions inside another.
- comments: lines with a comment, pragmas left out, of all lines.
- filler names: names that say nothing, see `FILLERS`, where they are bound.
- British spellings, see `BRITISH`, in code and prose.
"""

import argparse
import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

FILLER_WORDS = """
    found said made given each every at of how what whole wanted got taken told there
    shown rest most own
"""
FILLERS = frozenset(FILLER_WORDS.split())
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)
PRAGMA = re.compile(r"#\s*(noqa|fmt:|type:|pyright:|ruff:|!)")

# Parts of words that American spelling does not have. The libraries around us are
# American, and a search for `quantize` must hit everything that is about it. E2E's texts
# are British: what is quoted as "centre" is theirs.
BRITISH = re.compile(
    r"""
    quantis | optimis(?!m|t) | normalis | initialis | serialis | tokenis | stabilis
    | recognis | minimis | maximis | summaris | organis(?!m) | generalis | regularis
    | factoris | vectoris | parallelis | penalis | randomis | standardis | utilis
    | emphasis(?:e|ing) | analys(?:e|ing)(?!s) | realis(?:e|ing) | colour | behaviour
    | favour | neighbour | honour | grey | (?<!")centre | learnt | spelt | labell(?!eft) | modell
    | cancell(?!ation) | travell | licence | catalogue | artefact | whilst | judgement
    """,
    re.IGNORECASE | re.VERBOSE,
)


class Style(NamedTuple):
    """The counts of one file."""

    nodes: int
    code_lines: int
    comment_lines: int
    lines: int
    comprehensions: int
    nested: list[int]  # line numbers of comprehensions that hold another
    conditionals: list[int]  # line numbers of conditional expressions that hold another
    fillers: list[tuple[int, str]]  # (line number, name)
    longest_function: tuple[int, str]  # (lines, name)

    @property
    def density(self) -> float:
        """Syntax nodes a line of code."""
        return self.nodes / max(1, self.code_lines)


class Summary(NamedTuple):
    """The numbers of several files."""

    density: float  # the median over the files
    comprehensions: float  # for each 1,000 lines
    comments: float  # percent of the lines


def measure(path: Path) -> Style:
    """Count one Python file."""
    text = path.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    comprehensions = _nodes_of(nodes, COMPREHENSIONS)
    conditionals = _nodes_of(nodes, ast.IfExp)
    bound = _bound_names(nodes)
    return Style(
        nodes=len(nodes),
        code_lines=_code_lines(text, nodes),
        comment_lines=_comment_lines(text),
        lines=len(text.splitlines()),
        comprehensions=len(comprehensions),
        nested=_lines_of_nesting(comprehensions, COMPREHENSIONS),
        conditionals=_lines_of_nesting(conditionals, ast.IfExp),
        fillers=[(line, name) for line, name in bound if name in FILLERS],
        longest_function=_longest_function(nodes),
    )


def summarize(styles: Iterable[Style]) -> Summary:
    """Files together: the median density, comprehensions and comments of all lines."""
    styles = [style for style in styles if style.code_lines > 0]
    lines = sum(style.lines for style in styles)
    comprehensions = sum(style.comprehensions for style in styles)
    comments = sum(style.comment_lines for style in styles)
    return Summary(
        density=statistics.median(style.density for style in styles),
        comprehensions=1000 * comprehensions / lines,
        comments=100 * comments / lines,
    )


def british_spellings(path: Path) -> list[tuple[int, str]]:
    """The British spellings of a file of code or prose: (line number, part of a word)."""
    spellings = []
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        for match in BRITISH.finditer(line):
            spellings.append((number, match.group()))
    return spellings


def files(places: Iterable[str | Path]) -> list[Path]:
    """The Python files of files and folders."""
    paths: list[Path] = []
    for place in map(Path, places):
        paths += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return paths


def package(path: Path) -> str:
    """The folder that a file's numbers are summed in: `lora_jax/nn`, `experiments`."""
    # Folders further down, as data/tasks, belong to the package above them.
    return "/".join(path.parts[:-1][:2]) or "."


def _nodes_of(nodes: list[ast.AST], kinds: type | tuple[type, ...]) -> list[ast.AST]:
    return [node for node in nodes if isinstance(node, kinds)]


def _lines_of_nesting(
    nodes: list[ast.AST], kinds: type | tuple[type, ...]
) -> list[int]:
    """Line numbers of those nodes that hold another node of the kinds."""
    lines = []
    for node in nodes:
        inner = list(ast.walk(node))[1:]
        if _nodes_of(inner, kinds):
            lines.append(node.lineno)
    return lines


def _code_lines(text: str, nodes: list[ast.AST]) -> int:
    docstrings = _docstring_lines(nodes)
    count = 0
    for number, line in enumerate(text.splitlines(), start=1):
        is_comment = line.lstrip().startswith("#")
        if line.strip() and not is_comment and number not in docstrings:
            count += 1
    return count


def _docstring_lines(nodes: list[ast.AST]) -> set[int]:
    lines: set[int] = set()
    for node in _nodes_of(nodes, DOCUMENTED):
        if ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def _comment_lines(text: str) -> int:
    count = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not PRAGMA.match(token.string):
            count += 1
    return count


def _longest_function(nodes: list[ast.AST]) -> tuple[int, str]:
    lengths = []
    for node in _nodes_of(nodes, FUNCTIONS):
        lengths.append((node.end_lineno - node.lineno + 1, node.name))
    return max(lengths, default=(0, ""))


def _bound_names(nodes: list[ast.AST]) -> Iterator[tuple[int, str]]:
    """Variables, parameters, functions, classes, fields, aliases and caught errors."""
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.lineno, node.name


def _print_file(path: Path, style: Style) -> None:
    rate = 1000 * style.comprehensions / max(1, style.lines)
    share = 100 * style.comment_lines / max(1, style.lines)
    length, name = style.longest_function
    print(
        f"{style.density:7.1f}  {rate:19.0f}  {share:10.1f}  {style.lines:5d}  "
        f"{length:3d} {name:24s} {path}"
    )
    for line in style.nested:
        print(f"    {path}:{line}: a comprehension inside a comprehension")
    for line in style.conditionals:
        print(f"    {path}:{line}: a conditional expression inside another")
    for line, name in style.fillers:
        print(f"    {path}:{line}: filler name {name!r}")
    for line, spelling in british_spellings(path):
        print(f"    {path}:{line}: British spelling {spelling!r}")


def main(arguments: list[str]) -> None:
    """Print the numbers of the files, and those of their packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = ["lora_jax", "experiments"]
    parser.add_argument("places", nargs="*", default=default, help="folders or files")
    places = parser.parse_args(arguments).places
    styles_by_package: dict[str, list[Style]] = {}
    print("density  comprehensions/kloc  comments %  lines  longest function")
    for path in files(places):
        style = measure(path)
        _print_file(path, style)
        styles_by_package.setdefault(package(path), []).append(style)

    print("\nmedian density  comprehensions/kloc  comments %  package")
    for name, styles in styles_by_package.items():
        density, comprehensions, comments = summarize(styles)
        print(f"{density:14.1f}  {comprehensions:19.0f}  {comments:10.1f}  {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
