"""Files that are none, that are too large, and archives that are damaged or hostile."""

import os
import resource
import struct
import zipfile

import pytest

from lora_jax import data
from lora_jax.data import read_bytes as read_bytes_module
from lora_jax.data.read_bytes import open_archive, read_bytes
from tests.data.files import message

ROW = b'mr,ref\n"name[B]",Go.\n'
FILES = ("trainset.csv", "devset.csv", "testset_w_refs.csv")


def archive(path, extra=None, method=zipfile.ZIP_DEFLATED):
    """The official E2E archive with one row a file; `extra` are more members."""
    members = {f"e2e-dataset/{name}": ROW for name in FILES} | (extra or {})
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def edited(path, *edits):
    """The archive with bytes replaced: (signature of the record, offset, bytes)."""
    content = bytearray(path.read_bytes())
    for signature, offset, replacement in edits:
        start = content.find(signature) + offset
        content[start : start + len(replacement)] = replacement
    path.write_bytes(content)
    return path


LOCAL = b"PK\x03\x04"
CENTRAL = b"PK\x01\x02"


def test_what_is_no_file_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    for name in ("pipe.csv", "device.csv"):
        text = message(data.load, tmp_path / name)
        assert f"{name}: expected a file, got a pipe or a device" in text
    (tmp_path / "train.csv").mkdir()
    (tmp_path / "dev.csv").write_text("text,label\na,1\n")
    text = message(data.load, tmp_path)
    assert "train.csv: expected a file, got a folder" in text
    (tmp_path / "broken.csv").symlink_to("nowhere")
    text = message(read_bytes, tmp_path / "broken.csv", error=FileNotFoundError)
    assert text == "broken.csv cannot be read: No such file or directory"


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n")

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    text = message(read_bytes, path, error=PermissionError)
    assert text == "a.csv cannot be read: Permission denied"


def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.touch()
    os.truncate(path, 2**40)
    text = message(data.load, path)
    assert text == "a.csv: expected a file of at most 1,024 MiB, got 1,048,576.0 MiB"
    # Of a smaller one the beginning is enough.
    os.truncate(path, 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "a.csv, line 1: expected UTF-8, got the character NUL" in message(
        data.load, path
    )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000  # kB


def test_a_member_that_unfolds_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(read_bytes_module, "MAX_DOCUMENT", 2**20)
    path = archive(tmp_path / "a.zip", {"e2e-dataset/trainset.csv": bytes(2**21)})
    text = message(data.load, "e2e", data_dir=path)
    assert text == (
        "trainset.csv in a.zip: expected a file of at most 1 MiB, got 2.0 MiB"
    )
    # The same, which says that it has 100 bytes.
    size = struct.pack("<L", 100)
    edited(path, (LOCAL, 22, size), (CENTRAL, 24, size))
    text = message(data.load, "e2e", data_dir=path)
    assert "trainset.csv in a.zip is damaged: Bad CRC-32" in text


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([(LOCAL, 45, b"\xff\xff\xff")], "trainset.csv in a.zip is damaged: "),
        ([(CENTRAL, 10, b"\x63\x00")], "expected a member that is stored or deflated"),
        ([(CENTRAL, 8, b"\x01\x00")], "trainset.csv in a.zip is encrypted"),
        ([(CENTRAL, 0, b"XX")], "a.zip: a damaged zip archive: Bad magic number"),
        ([(b"PK\x05\x06", 12, b"\xff\xff\xff\xff")], "of too many members"),
    ],
)
def test_damaged_archives(tmp_path, edits, expected):
    path = archive(tmp_path / "a.zip")
    text = message(data.load, "e2e", data_dir=edited(path, *edits))
    assert expected in text


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unfold_without_bound_are_refused(tmp_path, method):
    path = archive(tmp_path / "a.zip", method=method)
    text = message(data.load, "e2e", data_dir=path)
    assert f"got the method {method}; unpack the archive, and pass the folder" in text


@pytest.mark.parametrize(
    "name", ["../a.csv", "/a.csv", "a//b.csv", "a\\b.csv", "a/" * 30 + "b"]
)
def test_names_that_lead_out_or_hang_are_refused(tmp_path, name):
    path = archive(tmp_path / "a.zip", {name: b""})
    text = message(data.load, "e2e", data_dir=path)
    assert f"expected members with names such as folder/file.csv, got {name!r}" in text


def test_what_is_no_archive(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"no archive")
    assert open_archive(path) is None
    text = message(data.load, "e2e", data_dir=path)
    assert "expected a folder or a zip archive" in text
