"""A wheel in the cache is whole and the pinned one, or it is not there."""

import hashlib
import os
import socket
import subprocess
import threading
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

from lora_jax import download

NAME = "tiny_data-1.0-py3-none-any.whl"
PIN = "tiny-data==1.0"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only package index pip sees; the cache is beside it."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LORA_JAX_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def cache(index: Path) -> Path:
    return index.parent / "cache" / "wheels"


def make_wheel(folder: Path) -> tuple[Path, str]:
    folder.mkdir(parents=True, exist_ok=True)
    info = "tiny_data-1.0.dist-info"
    with zipfile.ZipFile(folder / NAME, "w") as archive:
        archive.writestr("tiny_data/numbers.csv", "1,2\n")
        archive.writestr("tiny_data/words.txt", "one two\n")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n"
        )
        # What pip asks of a wheel.
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\n"
            "Generator: test\n"
            "Root-Is-Purelib: true\n"
            "Tag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return folder / NAME, hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def fake_pip(monkeypatch: pytest.MonkeyPatch, act) -> None:
    """Call `act(destination)` in pip's place.

    What it returns is pip's stderr; None is success.
    """

    def run(command, **_):
        destination = command[command.index("--dest") + 1]
        error = act(Path(destination))
        status = 0 if error is None else 1
        return subprocess.CompletedProcess(command, status, "", error or "")

    monkeypatch.setattr(download.subprocess, "run", run)


def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, lambda _: pytest.fail("pip was called"))


def visible(folder: Path) -> list[str]:
    return sorted(
        file.name
        for file in folder.iterdir()
        if not file.name.endswith(".verified") and file.name != ".lock"
    )


def test_pip_fetches_once_and_a_member_is_read(index, cache, monkeypatch, capsys):
    _, sha256 = make_wheel(index)
    assert download.read_member(PIN, sha256, "tiny_data/numbers.csv") == b"1,2\n"
    assert visible(cache) == [NAME]
    report = capsys.readouterr().err
    assert report.startswith(f"downloading {PIN} with pip into {cache} ...")
    assert report.endswith("0.0 MB\n")
    no_pip(monkeypatch)
    assert "tiny_data/words.txt" in download.member_names(PIN, sha256)
    assert capsys.readouterr().err == ""


def test_without_network_and_cache_the_error_says_what_to_do(index, cache):
    with pytest.raises(OSError) as caught:
        download.wheel_path(PIN, "f" * 64)
    text = str(caught.value)
    assert f"{PIN} is not in {cache}" in text
    assert "ERROR: No matching distribution found for tiny-data==1.0" in text
    for advice in (
        "run once with network",
        f"copy the wheel tiny_data-1.0-*.whl (sha256 {'f' * 64})",
        "LORA_JAX_CACHE",
        "pass a local directory",
    ):
        assert advice in text
    assert visible(cache) == []


def test_a_wheel_copied_by_hand_needs_no_pip(cache, monkeypatch):
    no_pip(monkeypatch)
    wheel, sha256 = make_wheel(cache)
    assert download.wheel_path(PIN, sha256) == wheel
    assert download.wheel_path("Tiny.Data==1.0", sha256) == wheel


def test_another_version_is_not_used(cache, monkeypatch):
    wheel, sha256 = make_wheel(cache)
    wheel.rename(cache / "tiny_data-1.0.1-py3-none-any.whl")
    fake_pip(monkeypatch, lambda _: "ERROR: none")
    with pytest.raises(OSError, match="ERROR: none"):
        download.wheel_path(PIN, sha256)
    assert visible(cache) == ["tiny_data-1.0.1-py3-none-any.whl"]


def test_a_damaged_copy_is_fetched_again(index, cache, monkeypatch, capsys):
    source, sha256 = make_wheel(index)
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(source.read_bytes()[:100])
    fake_pip(
        monkeypatch,
        lambda part: (part / NAME).write_bytes(source.read_bytes()) and None,
    )
    assert download.wheel_path(PIN, sha256).read_bytes() == source.read_bytes()
    assert "does not have the pinned sha256: removed" in capsys.readouterr().err


def test_a_fetched_wheel_with_another_hash_is_refused(cache, monkeypatch):
    fake_pip(
        monkeypatch, lambda part: (part / NAME).write_bytes(b"something else") and None
    )
    actual = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(OSError, match=f"expected sha256 {'a' * 64}, got {actual}"):
        download.wheel_path(PIN, "a" * 64)
    assert visible(cache) == []


def test_a_verified_wheel_is_hashed_again_only_after_a_change(cache, monkeypatch):
    wheel, sha256 = make_wheel(cache)
    hashed = []

    def counted(file: Path) -> str:
        hashed.append(file)
        return hashlib.sha256(file.read_bytes()).hexdigest()

    monkeypatch.setattr(download, "_sha256", counted)
    download.wheel_path(PIN, sha256)
    download.wheel_path(PIN, sha256)
    assert len(hashed) == 1
    os.utime(wheel, ns=(1, 1))
    download.wheel_path(PIN, sha256)
    assert len(hashed) == 2


def test_an_unknown_member_names_the_nearest(cache):
    _, sha256 = make_wheel(cache)
    with pytest.raises(
        ValueError,
        match=r"no member 'tiny_data/number.csv'; of its 5 .*'tiny_data/numbers.csv'",
    ):
        download.read_member(PIN, sha256, "tiny_data/number.csv")


@pytest.mark.parametrize(
    "requirement", ["tiny-data", "tiny-data>=1.0", "../x==1.0", "a==1/../../x"]
)
def test_only_a_pin_is_accepted(requirement, cache):
    with pytest.raises(ValueError, match="'name==version', got"):
        download.wheel_path(requirement, "f" * 64)


def test_an_interrupted_download_leaves_nothing(cache, monkeypatch):
    def interrupted(part: Path):
        (part / NAME).write_bytes(b"half")
        raise KeyboardInterrupt

    fake_pip(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        download.wheel_path(PIN, "f" * 64)
    assert visible(cache) == []


def test_leftovers_of_a_killed_run_are_cleared(index, cache, monkeypatch):
    source, sha256 = make_wheel(index)
    (cache / ".part-killed" / "pip-unpack").mkdir(parents=True)
    (cache / ".part-killed" / "pip-unpack" / NAME).write_bytes(b"half")
    fake_pip(
        monkeypatch,
        lambda part: (part / NAME).write_bytes(source.read_bytes()) and None,
    )
    download.wheel_path(PIN, sha256)
    assert visible(cache) == [NAME]


def test_two_at_once_download_once(index, cache, monkeypatch, capsys):
    source, sha256 = make_wheel(index)
    calls, paths = [], []

    def slow(part: Path):
        calls.append(part)
        time.sleep(0.2)
        (part / NAME).write_bytes(source.read_bytes())

    fake_pip(monkeypatch, slow)
    threads = [
        threading.Thread(target=lambda: paths.append(download.wheel_path(PIN, sha256)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [cache / NAME] * 2 and len(calls) == 1
    assert "waiting for another process" in capsys.readouterr().err


def test_a_full_disk_is_reported_plainly(cache, monkeypatch):
    fake_pip(
        monkeypatch,
        lambda _: "ERROR: Could not install: [Errno 28] No space left on device: '/x'",
    )
    with pytest.raises(
        OSError,
        match=r"cannot store tiny-data==1.0 in .*: No space left on device. Make room",
    ):
        download.wheel_path(PIN, "f" * 64)


def test_a_cache_that_cannot_be_written_is_reported_plainly(cache):
    cache.parent.write_text("a file where the cache should be")
    with pytest.raises(
        OSError, match=r"cannot store tiny-data==1.0 in .*set LORA_JAX_CACHE"
    ):
        download.wheel_path(PIN, "f" * 64)


class TestHub:
    @pytest.fixture(autouse=True)
    def _without_proxies(self, monkeypatch):
        monkeypatch.setattr(urllib.request, "getproxies", dict)
        monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
        download.hub_answers.cache_clear()
        yield
        download.hub_answers.cache_clear()

    def test_one_that_listens_answers(self, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
            assert download.hub_answers()
        download.use_cache_if_hub_is_away()
        assert "HF_DATASETS_OFFLINE" not in os.environ

    def test_one_that_is_away_is_known_at_once(self, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        # Nobody listens there any more.
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        assert not download.hub_answers()
        monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
        download.use_cache_if_hub_is_away()
        assert os.environ["HF_DATASETS_OFFLINE"] == "0"
        monkeypatch.delenv("HF_DATASETS_OFFLINE")
        download.use_cache_if_hub_is_away()
        assert os.environ.pop("HF_DATASETS_OFFLINE") == "1"

    def test_behind_a_proxy_the_client_finds_out(self, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "proxy"})
        assert download.hub_answers()
