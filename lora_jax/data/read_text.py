"""The bytes of a text file, known to be UTF-8 of a number of lines that can be read."""

import codecs
import zipfile
from pathlib import Path

from lora_jax.data.read_bytes import first_bytes, read_bytes

MAX_LINES = 10_000_000
# Official files have a hundred thousand; an archive of kilobytes could have millions.
MAX_MEMBER_LINES = 1_000_000
# What the first bytes say of text in another encoding than UTF-8.
SIGNATURES = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text_bytes(path: Path) -> bytes:
    """Return the bytes of a file of text, without the signature of some editors.

    All bytes are decoded once: an error while rows are read could not name its line.

    Raises:
        ValueError: they are not UTF-8, hold the character NUL, or have too many lines.
        OSError: the file cannot be read.
    """
    # A large file that is no text is refused before all of it is read.
    _check_text(path.name, first_bytes(path))
    content = read_bytes(path)
    _check_text(path.name, content)
    # Either ends a line in one of the formats.
    lines = max(content.count(b"\n"), content.count(b"\r"))
    limit = MAX_MEMBER_LINES if isinstance(path, zipfile.Path) else MAX_LINES
    if lines > limit:
        raise ValueError(
            f"{path.name}: expected at most {limit:,} lines, got {lines:,}"
        )
    _check_utf8(path.name, content)
    return content.removeprefix(codecs.BOM_UTF8)


def _check_text(name: str, content: bytes) -> None:
    for signature, encoding in SIGNATURES.items():
        if content.startswith(signature):
            raise ValueError(
                f"{name}: expected UTF-8, got {encoding}; save the file as UTF-8"
            )
    if (position := content.find(0)) >= 0:
        line = content.count(b"\n", 0, position) + 1
        raise ValueError(
            f"{name}, line {line}: expected UTF-8, got the character NUL, which "
            "other encodings and files that are no text have; save the file as UTF-8"
        )


def _check_utf8(name: str, content: bytes) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        # The error knows the position of the first bad byte.
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise ValueError(
            f"{name}, line {line}: expected UTF-8, got the byte 0x{byte:02x}; "
            "save the file as UTF-8"
        ) from None
