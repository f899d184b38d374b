"""METEOR: what its program is given, and what happens without it."""

import stat
from pathlib import Path

import pytest

from lora_jax import download
from lora_jax.metrics import meteor, text


def test_without_java_meteor_is_left_out_with_a_reason(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert text.score(["meteor", "exact_match"], ["a"], [["a"]]) == {"exact_match": 1.0}
    assert "apt-get install default-jre-headless" in text.missing(["meteor"])["meteor"]
    assert text.missing(["bleu"]) == {}
    with pytest.raises(
        OSError, match=r"METEOR 1\.5 is a Java program and there is no java"
    ):
        meteor.meteor(["a"], [["a"]])


@pytest.fixture
def java(tmp_path, monkeypatch):
    """`java(script)` puts a shell script in the program's place.

    It runs in the folder that has the two files.
    """
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(download, "wheel_path", lambda *pin: tmp_path)
    monkeypatch.setattr(download, "read_member", lambda *pin_and_member: b"")

    def install(script: str) -> Path:
        program = tmp_path / "java"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        return tmp_path

    return install


def test_meteor_gives_the_program_as_many_references_for_each_output(java):
    # Files and arguments are kept beside the script.
    folder = java(
        'cp outputs references "${0%/*}"; '
        'echo "$@" > "${0%/*}/arguments"; '
        'echo "Final score:   0.25"'
    )
    scores = text.score(["meteor"], ["A b.", ""], [["z.", "a b"], ["It's £5"]])
    assert scores == {"meteor": 0.25}
    assert (folder / "outputs").read_text() == "a b\n\n"
    assert (folder / "references").read_text() == "a b\nz\nit 's # 5\nit 's # 5\n"
    arguments = (folder / "arguments").read_text()
    assert arguments.endswith("outputs references -l en -norm -r 2\n")


def test_a_program_that_fails_is_quoted(java):
    java("echo 'Could not reserve enough space for object heap' >&2; exit 1")
    with pytest.raises(
        OSError,
        match=r"-r 1 ended with status 1 and no score: Could not reserve enough space",
    ):
        meteor.meteor(["a"], [["a"]])


def test_meteor_without_its_wheel_is_left_out(java, monkeypatch):
    def offline(*pin):
        raise OSError("pycocoevalcap==1.2 could not be fetched")

    java("exit 0")
    monkeypatch.setattr(download, "wheel_path", offline)
    assert text.score(["meteor"], ["a"], [["a"]]) == {}
    reason = "pycocoevalcap==1.2 could not be fetched"
    assert text.missing(["meteor"]) == {"meteor": reason}
