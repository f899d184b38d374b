"""Files in a folder, or in an archive, by names that differ in case alone."""

from collections.abc import Collection, Iterator
from pathlib import Path

from lora_jax.data.read_table import FORMATS

# Names of files that an error lists at most.
LISTED = 10
# Files and folders that are looked through, and folders within each other.
MAX_FILES = 10_000
MAX_DEPTH = 6

# The split that a file is, by the names that people give it.
STEMS = {
    "train": ("train",),
    "validation": ("validation", "dev", "valid", "val"),
    "test": ("test",),
}


def children(folder: Path) -> list[Path]:
    """Return what is in a folder by its name, without what macOS adds to it."""
    files = []
    for file in folder.iterdir():
        # Attributes of a file, which have its suffix but not its content.
        is_added = file.name.startswith("._") or file.name == "__MACOSX"
        if not is_added:
            files.append(file)
    return sorted(files, key=lambda file: file.name)


def list_folder(folder: Path) -> str:
    """Return the first names in a folder, for an error, or `nothing`."""
    names = [file.name for file in children(folder)]
    listed = ", ".join(names[:LISTED]) or "nothing"
    if len(names) > LISTED:
        listed += f", ... ({len(names):,} in all)"
    return listed


def child(folder: Path, name: str) -> Path | None:
    """Return a file or folder in a folder, maybe deeper, by its name in any case.

    The name as it is comes first; None if there is none.
    """
    place = folder
    for part in name.split("/"):
        if (place / part).exists():
            place = place / part
            continue
        if not place.is_dir():
            return None
        alike = []
        for file in children(place):
            if file.name.casefold() == part.casefold():
                alike.append(file)
        if not alike:
            return None
        place = alike[0]
    return place


def find_table_file(folder: Path, stems: Collection[str]) -> Path | None:
    """Return the table in `folder` that has one of these names, in any case.

    None if there is none.

    Raises:
        ValueError: there are two or more.
    """
    files = []
    for file in children(folder):
        stem = Path(file.name).stem.casefold()
        if stem in stems and Path(file.name).suffix.lower() in FORMATS:
            files.append(file)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"folder {folder.name}: expected one of {names}, got them all")
    return files[0] if files else None


def all_files(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a suffix at any depth, in the order of their paths.

    Raises:
        ValueError: the folder is too large to be looked through.
    """
    files = []
    for file in _walk(folder, MAX_DEPTH):
        if len(files) >= MAX_FILES:
            raise ValueError(
                f"folder {folder.name}: expected at most {MAX_FILES:,} files"
            )
        if file.name.lower().endswith(suffix):
            files.append(file)
    return files


def find_folder(root: Path, names: Collection[str]) -> list[Path]:
    """Return the folders that have children of all these names, the nearest ones.

    The root itself is the nearest; then those in it, and so on.
    """
    level = [root]
    looked = 0
    for _ in range(MAX_DEPTH):
        matches = []
        deeper = []
        for folder in level:
            if all(child(folder, name) for name in names):
                matches.append(folder)
            for place in children(folder):
                looked += 1
                if place.is_dir() and looked < MAX_FILES:
                    deeper.append(place)
        if matches:
            return matches
        level = deeper
    return []


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    # A folder that links to itself has no end.
    if depth == 0:
        return
    for file in children(folder):
        if file.is_dir():
            yield from _walk(file, depth - 1)
        else:
            yield file
