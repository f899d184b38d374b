"""Imports run one way: the floors of the library, and what no file may import.

The imports are read from the source with `ast`, those inside functions included, so that
a circle shows even where Python would get away with it. The README's drawing of the tree
is held against the folders here as well.
"""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "lora_jax"
EXPERIMENTS = ROOT / "experiments"

# From the ground up. A room may import the rooms of lower floors, and its neighbors on
# the same floor as long as they do not import it back.
FLOORS = (
    (
        "tree",
        "devices",
        "hosts",
        "download",
        "bounded_json",
        "interrupts",
        "metric_order",
        "plural",
        "paper",
        "results",
    ),
    ("quant", "data", "metrics"),
    ("nn", "checkpoints"),
    ("methods", "models"),
    ("analysis", "train", "generation"),
    ("accounting",),
    ("experiment",),
)

# What a page of results must not need: it is drawn from rows alone.
TRAINED = frozenset(["methods", "models"])


class Import(NamedTuple):
    """One import: who imports what, and where it is written."""

    importer: str
    imported: str
    place: str

    def __str__(self) -> str:
        return f"{self.place}: {self.importer} imports {self.imported}"


def module_name(path: Path) -> str:
    """`lora_jax/nn/layers.py` -> `lora_jax.nn.layers`; a package is its folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


def modules_below(folder: Path) -> dict[str, Path]:
    """The Python files of a folder by their module's name."""
    paths = sorted(folder.rglob("*.py"))
    return {module_name(path): path for path in paths}


MODULES = modules_below(LIBRARY)


def top(module: str) -> str:
    """`jax.numpy` -> `jax`."""
    return module.partition(".")[0]


def imported_names(statement: ast.AST, place: str) -> Iterator[str]:
    """The modules that a statement imports; for names of a module, that module."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.name
    elif isinstance(statement, ast.ImportFrom):
        assert statement.level == 0, f"{place}: a relative import"
        for alias in statement.names:
            name = f"{statement.module}.{alias.name}"
            yield name if name in MODULES else statement.module


def imports_of(name: str, path: Path) -> list[Import]:
    """Every import that is written in a file."""
    imports = []
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        line = getattr(statement, "lineno", 0)
        place = f"{path.relative_to(ROOT)}:{line}"
        for imported in imported_names(statement, place):
            imports.append(Import(name, imported, place))
    return imports


def library_imports() -> list[Import]:
    """The imports of the library by the library.

    The package itself, `lora_jax/__init__.py`, stands above all floors: it only hands on
    names, so it is left out.
    """
    imports = []
    for name, path in MODULES.items():
        if name == "lora_jax":
            continue
        for single in imports_of(name, path):
            if top(single.imported) == "lora_jax":
                imports.append(single)
    return imports


IMPORTS = library_imports()


def room(module: str) -> str:
    """`lora_jax.nn.layers` -> `nn`; empty for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def floor_by_room() -> dict[str, int]:
    """The number of each room's floor, the ground's is 0."""
    floors = {}
    for number, rooms in enumerate(FLOORS):
        for name in rooms:
            floors[name] = number
    return floors


def listing(imports: list[Import]) -> str:
    """The imports a line each, for the message of a failing assertion."""
    return "\n" + "\n".join(map(str, imports))


def circle(pairs: list[tuple[str, str]]) -> list[str]:
    """The names of one circle of imports, the first again at the end; or none."""
    # Sorting topologically fails where there is a circle, and names it.
    graph = graphlib.TopologicalSorter()
    for importer, imported in pairs:
        graph.add(importer, imported)
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_every_room_has_a_floor():
    rooms = {room(name) for name in MODULES} - {""}
    assert rooms == set(floor_by_room())


def test_no_import_goes_up():
    floors = floor_by_room()
    upwards = []
    for single in IMPORTS:
        # A room that is not in the table is reported by the test above.
        importer = floors.get(room(single.importer), len(FLOORS))
        if floors.get(room(single.imported), 0) > importer:
            upwards.append(single)
    assert not upwards, listing(upwards)


def test_the_library_does_not_import_from_its_own_front():
    from_front = [single for single in IMPORTS if single.imported == "lora_jax"]
    assert not from_front, listing(from_front)


def test_rooms_import_each_other_in_no_circle():
    pairs = [(room(single.importer), room(single.imported)) for single in IMPORTS]
    assert not circle([pair for pair in pairs if pair[0] != pair[1]])


def test_modules_import_each_other_in_no_circle():
    assert not circle([(single.importer, single.imported) for single in IMPORTS])


def test_models_and_methods_do_not_know_each_other():
    pair = {"models", "methods"}
    between = []
    for single in IMPORTS:
        if {room(single.importer), room(single.imported)} == pair:
            between.append(single)
    assert not between, listing(between)


def test_results_need_neither_jax_nor_what_was_trained():
    forbidden = []
    for name, path in MODULES.items():
        if room(name) != "results":
            continue
        for single in imports_of(name, path):
            library = top(single.imported)
            if library in ("jax", "flax", "optax"):
                forbidden.append(single)
            if library == "lora_jax" and room(single.imported) in TRAINED:
                forbidden.append(single)
    assert not forbidden, listing(forbidden)


def test_experiments_do_not_import_each_other():
    stems = {path.stem for path in EXPERIMENTS.glob("*.py")}
    shared = []
    for path in EXPERIMENTS.glob("*.py"):
        for single in imports_of(f"experiments.{path.stem}", path):
            # As `experiments.nlg`, or as `nlg`, which Python finds beside a script.
            if top(single.imported) in stems | {"experiments"}:
                shared.append(single)
    assert not shared, listing(shared)


def test_a_circle_is_seen():
    assert set(circle([("a", "b"), ("b", "c"), ("c", "a")])) == {"a", "b", "c"}
    assert circle([("a", "b"), ("a", "c"), ("b", "c")]) == []


def tree_of_the_readme() -> str:
    """The code block of README.md that draws the tree."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    drawings = [block for block in blocks if "lora_jax/ " in block]
    assert len(drawings) == 1, "README.md: one code block draws the tree"
    return drawings[0]


def folders_of_code(folder: Path) -> list[str]:
    """Names of the folders below that hold Python files; no caches or environments."""
    names = []
    for path in sorted(folder.iterdir()):
        is_code = path.is_dir() and any(path.glob("*.py"))
        if is_code and not path.name.startswith((".", "_")):
            names.append(path.name)
    return names


def test_the_readme_s_tree_names_every_folder():
    tree = tree_of_the_readme()
    folders = ["lora_jax", "experiments", "paper_tables", "results", "tests"]
    folders += folders_of_code(LIBRARY)
    missing = [name for name in folders if f"{name}/" not in tree]
    assert not missing, f"README.md's tree does not name {', '.join(missing)}"


def test_the_readme_s_tree_names_every_file_of_the_ground():
    tree = tree_of_the_readme()
    names = [path.name for path in LIBRARY.glob("*.py") if path.stem != "__init__"]
    missing = [name for name in names if name not in tree]
    assert not missing, f"README.md's tree does not name {', '.join(missing)}"
