"""Files that are written whole or not at all, the same bytes for the same content."""

import io
import os
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure


def write(path: str | Path, content: str | bytes) -> None:
    """Write a file under a temporary name beside it, then rename it.

    When anything fails nothing is left behind, and an older file stays as it was.
    """
    path = Path(path)
    # Beside the file: a rename is atomic only within one file system.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            # On the disk before the rename, or a crash could leave an empty file.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        # After the rename there is none.
        temporary.unlink(missing_ok=True)


def write_if_changed(path: Path, content: bytes) -> None:
    """Write the file unless it has these bytes already, so that its date says enough."""
    if not path.exists() or path.read_bytes() != content:
        write(path, content)


def csv(table: pd.DataFrame) -> bytes:
    """Return the bytes of the table's file."""
    # Ten digits: the last ones of a float depend on the machine.
    text = table.to_csv(index=False, lineterminator="\n", float_format="%.10g")
    return text.encode()


def png(figure: Figure) -> bytes:
    """Return the bytes of the figure's file, 150 dots an inch."""
    image = io.BytesIO()
    with matplotlib.rc_context():
        # A personal matplotlibrc must not change committed figures.
        matplotlib.rcdefaults()
        # Without the name of the software, which has matplotlib's version.
        figure.savefig(
            image,
            format="png",
            dpi=150,
            facecolor="white",
            metadata={"Software": None},
        )
    return image.getvalue()
