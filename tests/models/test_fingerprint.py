"""The hash of a model's files: whole contents, and a cache of them."""

import json
import os

import pytest

from lora_jax import download
from lora_jax.models import fingerprint as module
from lora_jax.models.fingerprint import fingerprint


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(download, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(300_000))
    return file


def replace_middle(file):
    """One other byte far from both ends, in a file of the same size."""
    content = bytearray(file.read_bytes())
    content[150_000] = 1
    file.write_bytes(content)


def test_a_byte_in_the_middle_makes_another_model(weights):
    before = fingerprint([weights])
    assert fingerprint([weights]) == before
    replace_middle(weights)
    assert fingerprint([weights]) != before


def test_names_count_and_folders_do_not(weights, tmp_path):
    before = fingerprint([weights])
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    moved = weights.rename(folder / weights.name)
    assert fingerprint([moved]) == before
    renamed = moved.rename(folder / "other.safetensors")
    assert fingerprint([renamed]) != before


def test_a_file_is_read_once(weights, monkeypatch):
    before = fingerprint([weights])
    # Whoever reads again fails.
    monkeypatch.setattr(module.hashlib, "file_digest", None)
    assert fingerprint([weights]) == before
    # A new time, and it is read again.
    os.utime(weights, ns=(1, 1))
    with pytest.raises(TypeError):
        fingerprint([weights])


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', json.dumps({"a": [1]})])
def test_a_damaged_cache_costs_time_alone(weights, cache, content):
    before = fingerprint([weights])
    (cache / module.FILE).write_text(content)
    assert fingerprint([weights]) == before
