"""The bytes of a file from outside, be it in a folder or in a zip archive.

Files come from anywhere, so all that can be wrong with one becomes an error here that
names it: what is no file and would block, what is larger than any data set, and what
`zipfile` cannot read. Nothing of an archive is ever unpacked to the disk.
"""

import hashlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import cast

# Of a file that lies on the disk as large as it is, in bytes.
MAX_FILE = 2**30
# Of what is held in memory several times over: JSON, XML, and members of archives,
# which may be a thousand times smaller on the disk.
MAX_DOCUMENT = 2**26
# Of an archive's list of members, some 50 bytes and more for a member.
MAX_DIRECTORY = 2**22
MAX_FOLDERS = 20  # folders within each other
CHUNK = 2**20  # bytes that are unpacked at a time
# The methods that unpack no more than they are asked for.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# The record that ends an archive: its signature, its length, and the place of the
# length of the list of members in it.
END = b"PK\x05\x06"
END_SIZE = 22
DIRECTORY_SIZE = struct.Struct("<12xL")


def read_bytes(path: Path, *, limit: int = MAX_FILE) -> bytes:
    """Return all bytes of a file.

    Raises:
        ValueError: it is a folder, a pipe or a device, has more than `limit` bytes, or
            is damaged or encrypted in its archive.
        OSError: it cannot be read.
    """
    if isinstance(path, zipfile.Path):
        return _member_bytes(path)
    size = _file_size(path, limit)
    return _read(path, size)


def first_bytes(path: Path) -> bytes:
    """Return the first bytes of a file in a folder; all of them of one in an archive.

    Raises:
        ValueError, OSError: as `read_bytes` does.
    """
    if isinstance(path, zipfile.Path):
        return _member_bytes(path)
    size = _file_size(path, MAX_FILE)
    return _read(path, min(size, CHUNK))


def describe_file(path: Path) -> str:
    """Return the file's name and the sha256 of its bytes."""
    digest = hashlib.sha256(read_bytes(path)).hexdigest()
    return f"{path.name} sha256:{digest}"


def describe_files(paths: Iterable[Path]) -> str:
    """Return the names and sha256 of several files, separated by commas."""
    descriptions = [describe_file(path) for path in paths]
    return ", ".join(descriptions)


def open_archive(path: Path) -> Path | None:
    """Return a zip archive as a folder, None if the file is none.

    Raises:
        ValueError: it is no file, is damaged, or has members that lead out of it.
    """
    _file_size(path, MAX_FILE)
    if not zipfile.is_zipfile(path):
        return None
    _check_directory(path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path.name}: a damaged zip archive: {error}") from None
    for name in archive.namelist():
        _check_member(path.name, name)
    # A path into the archive has everything of Path that is used here.
    return cast(Path, zipfile.Path(archive))


def _read(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise type(error)(f"{path.name} cannot be read: {error.strerror}") from None


def _file_size(path: Path, limit: int) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise type(error)(f"{path.name} cannot be read: {error.strerror}") from None
    # Before it is opened: to open a pipe waits for somebody who writes to it.
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise ValueError(
            f"{path.name}: expected a file, got {kind}; copy its content into a file"
        )
    _check_limit(path.name, status.st_size, limit)
    return status.st_size


def _check_limit(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(
            f"{name}: expected a file of at most {limit // 2**20:,} MiB, "
            f"got {size / 2**20:,.1f} MiB"
        )


def _check_directory(path: Path) -> None:
    """Check the list of members, before `zipfile` reads all of it."""
    with path.open("rb") as file:
        size = path.stat().st_size
        # A comment of up to 64 KiB may follow the record.
        file.seek(max(0, size - END_SIZE - 2**16))
        tail = file.read()
    record = tail[tail.rfind(END) :]
    if len(record) < END_SIZE:
        raise ValueError(f"{path.name}: a zip archive that breaks off")
    (directory_size,) = DIRECTORY_SIZE.unpack_from(record)
    if directory_size > MAX_DIRECTORY:
        raise ValueError(
            f"{path.name}: a zip archive of too many members; unpack it, and pass the "
            "folder"
        )


def _check_member(archive: str, name: str) -> None:
    """Check the name of a member: such names lead out, or hang `zipfile`."""
    folders = name.rstrip("/").split("/")
    leads_out = not {"", ".", ".."}.isdisjoint(folders) or "\\" in name
    if leads_out or len(folders) > MAX_FOLDERS:
        raise ValueError(
            f"{archive}: expected members with names such as folder/file.csv, "
            f"got {name[:80]!r}"
        )


def _member_bytes(member: zipfile.Path) -> bytes:
    archive = member.root
    name = f"{member.name} in {Path(str(archive.filename)).name}"
    try:
        info = archive.getinfo(member.at)
    except KeyError:
        raise ValueError(f"{name}: expected a file, got a folder") from None
    _check_limit(name, info.file_size, MAX_DOCUMENT)
    # The first bit of the flags.
    if info.flag_bits & 1:
        raise ValueError(f"{name} is encrypted; pack it without a password")
    if info.compress_type not in METHODS:
        raise ValueError(
            f"{name}: expected a member that is stored or deflated, got the method "
            f"{info.compress_type}; unpack the archive, and pass the folder"
        )
    damages = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
    parts = []
    try:
        with archive.open(info) as file:
            # In parts: all at once would unpack whatever is there, not what is declared.
            while part := file.read(CHUNK):
                parts.append(part)
    except (*damages, RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{name} is damaged: {error}") from None
    return b"".join(parts)
