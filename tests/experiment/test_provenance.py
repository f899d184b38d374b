"""What a run was made with is told, who made it is not."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from lora_jax import results
from lora_jax.experiment import provenance


def test_provenance_says_what_and_hides_who():
    told = provenance.provenance()
    assert (
        set(told["versions"]) == {*provenance.PACKAGES, "python"}
        and told["versions"]["jax"][0].isdigit()
    )
    assert (
        told["machine"]["backend"] == "cpu"
        and told["machine"]["cores"] >= 1
        and told["machine"]["memory_gib"] > 0
    )
    assert told["date"].endswith("+00:00")
    text = json.dumps(told)
    assert (
        str(Path.home()) not in text
        and str(Path.cwd()) not in text
        and os.uname().nodename not in text
    )


def test_outside_git_the_commit_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    told = provenance.provenance()
    assert (told["commit"], told["dirty"]) == ("unknown", None)
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert provenance.provenance()["commit"] == "unknown"


def test_results_do_not_make_the_checkout_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(git + command, check=True, capture_output=True)
    results.record(tmp_path / "results" / "a.jsonl", {"config": {}, "metrics": {}})
    told = provenance.provenance()
    assert len(told["commit"]) == 40 and told["dirty"] is False
    (tmp_path / "code.py").write_text("")
    assert provenance.provenance()["dirty"] is True
