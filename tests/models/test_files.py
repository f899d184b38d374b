"""The files of a model: its configuration, tensors and tokenizer."""

import json
import os

import pytest

from lora_jax.models.sources import find_files
from tests.models.fake_family import WORDS, write_model


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path)


def test_configuration_and_tensors(folder):
    files = find_files(folder)
    config = files.config()
    assert config["model_type"] == "fake"
    tokens = files.tensors()["tokens.weight"]
    assert tokens.shape == (len(WORDS), 4)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "config.json is not JSON"),
        ('{"a": ' + "[" * 200, "config.json is not JSON .brackets are nested more"),
        ("[]", "expected a JSON object in config.json"),
    ],
)
def test_a_bad_config_is_named(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_files(folder).config()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_text_is_small_and_utf8(folder, name):
    def read():
        files = find_files(folder)
        return files.config(), files.tokenizer()

    text = (folder / name).read_text()
    (folder / name).write_text(text, encoding="utf-8-sig")
    assert read()[0]["model_type"] == "fake"
    (folder / name).write_text(text, encoding="utf-16")
    with pytest.raises(ValueError, match=f"my-model: expected UTF-8 text in {name}"):
        read()
    # A file of zeros that takes no place on disk.
    os.truncate(folder / name, 10**12)
    message = f"expected {name} to have up to 200,000,000 bytes, got 1,000,000,000,000"
    with pytest.raises(ValueError, match=message):
        read()


def test_an_adapter_beside_the_model_is_not_left_out(folder):
    (folder / "adapter_config.json").write_text("{}")
    message = "my-model: adapter_config.json: expected a model alone, got an adapter"
    with pytest.raises(ValueError, match=message):
        find_files(folder).config()


def test_missing_files_are_named(folder):
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").unlink()
    files = find_files(folder)
    message = r"my-model: expected config.json, found \['model.safetensors'\]"
    with pytest.raises(FileNotFoundError, match=message):
        files.config()
    message = r"expected tokenizer.json, or vocab.txt, or .* found \['model"
    with pytest.raises(FileNotFoundError, match=message):
        files.tokenizer()


class TestTokenizer:
    def test_a_bad_one_is_named(self, folder):
        (folder / "tokenizer.json").write_text("{}")
        message = r"^my-model: tokenizer.json: expected a tokenizer, got an error \(Mo"
        with pytest.raises(ValueError, match=message):
            find_files(folder).tokenizer()

    @pytest.mark.parametrize("lowercase, good", [(True, "good"), (False, "Good")])
    def test_wordpiece_from_a_vocabulary(self, tmp_path, lowercase, good):
        settings = json.dumps({"do_lower_case": lowercase})
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        (tmp_path / "tokenizer_config.json").write_text(settings)
        tokenizer = find_files(tmp_path).tokenizer()
        tokens = tokenizer.encode("Good films").tokens
        assert tokens == ["[CLS]", good, "film", "##s", "[SEP]"]
        assert tokenizer.encode("film", "good").type_ids == [0, 0, 0, 1, 1]
        assert tokenizer.get_vocab_size() == len(WORDS)

    def test_byte_level_of_roberta(self, tmp_path):
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        tokenizer = self.byte_level(tmp_path, special)
        assert tokenizer.encode("hi hi").tokens == ["<s>", "hi", "Ġhi", "</s>"]
        pair = tokenizer.encode("hi", "hi").tokens
        assert pair == ["<s>", "hi", "</s>", "</s>", "hi", "</s>"]
        # <mask> swallows the space before it.
        assert tokenizer.encode("hi <mask>").ids == [0, 7, 4, 2]

    def test_byte_level_of_gpt2_puts_nothing_around_a_text(self, tmp_path):
        tokenizer = self.byte_level(tmp_path, ["<|endoftext|>"])
        assert tokenizer.encode("hi hi").tokens == ["hi", "Ġhi"]

    def byte_level(self, folder, special):
        tokens = [*special, "h", "i", "hi", "Ġ", "Ġhi"]
        ids = {token: index for index, token in enumerate(tokens)}
        merges = "#version: 0.2\nh i\nĠ hi\n"
        (folder / "vocab.json").write_text(json.dumps(ids))
        (folder / "merges.txt").write_text(merges, encoding="utf-8")
        tokenizer = find_files(folder).tokenizer()
        plain = tokenizer.encode("hi hi", add_special_tokens=False)
        assert plain.tokens == ["hi", "Ġhi"]
        return tokenizer
