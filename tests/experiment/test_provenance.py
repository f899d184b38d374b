"""A row says what it was made with, and not who made it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from lora_jax import results
from lora_jax.experiment import provenance

RESETS = Path("/proc/self/clear_refs")


def test_versions_machine_and_date():
    facts = provenance.provenance()
    assert set(facts["versions"]) == {*provenance.PACKAGES, "python"}
    assert facts["versions"]["jax"][0].isdigit()
    machine = facts["machine"]
    assert machine["backend"] == "cpu"
    assert machine["cores"] >= 1
    assert machine["memory_gib"] > 0
    # UTC
    assert facts["date"].endswith("+00:00")


def test_neither_user_nor_folder_nor_host_is_in_it():
    text = json.dumps(provenance.provenance())
    for private in (str(Path.home()), str(Path.cwd()), os.uname().nodename):
        assert private not in text


def test_a_package_that_is_not_installed_is_unknown(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("jax", "no-such-package"))
    versions = provenance.provenance()["versions"]
    assert versions["no-such-package"] == "unknown"
    assert versions["jax"] != "unknown"


class TestCommit:
    @pytest.fixture(autouse=True)
    def repository(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
        return tmp_path

    def test_outside_git_it_is_unknown(self):
        facts = provenance.provenance()
        assert facts["commit"] == "unknown"
        assert facts["dirty"] is None

    def test_without_git_it_is_unknown(self, repository, monkeypatch):
        (repository / ".git").mkdir()
        monkeypatch.setenv("PATH", "")
        assert provenance.provenance()["commit"] == "unknown"

    def test_results_do_not_make_the_checkout_dirty(self, repository):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        git = ["git", "-C", str(repository), *identity]
        commit = ["commit", "-q", "--allow-empty", "-m", "first"]
        for command in (["init", "-q"], commit):
            subprocess.run(git + command, check=True, capture_output=True)
        path = repository / "results" / "a.jsonl"
        results.record(path, {"config": {}, "metrics": {}})
        facts = provenance.provenance()
        assert len(facts["commit"]) == 40
        assert facts["dirty"] is False
        (repository / "code.py").write_text("")
        assert provenance.provenance()["dirty"] is True


class TestPeak:
    @pytest.mark.skipif(not RESETS.exists(), reason="only Linux resets the peak")
    def test_it_is_the_resident_set_since_the_reset(self):
        provenance.reset_peak()
        before = provenance.peak_mb()
        # 64 MB, each page of them written.
        block = bytearray(b"1" * 64_000_000)
        assert provenance.peak_mb() >= before + 50
        assert len(block) == 64_000_000

    def test_an_accelerator_keeps_count_itself(self, monkeypatch):
        class Device:
            def memory_stats(self):
                return {"peak_bytes_in_use": 1_234_567}

        monkeypatch.setattr(provenance.jax, "local_devices", lambda: [Device()])
        assert provenance.peak_mb() == 1.2
