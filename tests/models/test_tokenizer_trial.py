"""Tokenizers that cannot be used are refused as they are read, in one line."""

import base64
import json
import os

import pytest
from tokenizers import Tokenizer, models, processors

from lora_jax.models import tokenizer_trial
from lora_jax.models.sources import find_files

IDS = {"[UNK]": 0, "a": 1, "b": 2, "ab": 3}


def wordlevel() -> dict:
    tokenizer = Tokenizer(models.WordLevel(IDS, "[UNK]"))
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(8)
    tokenizer.post_processor = processors.TemplateProcessing(
        "[UNK] $A", "[UNK] $A $B:1", [("[UNK]", 0)]
    )
    return json.loads(tokenizer.to_str())


def changed(*path_and_value):
    """The tokenizer with another value at a path."""
    *path, last, value = path_and_value
    fields = wordlevel()
    part = fields
    for name in path:
        part = part[name]
    part[last] = value
    return fields


def precompiled(text):
    return changed("normalizer", {"type": "Precompiled", "precompiled_charsmap": text})


def nested(depth: int) -> str:
    """A normalizer in a sequence in a sequence, as text."""
    start = '{"type": "Sequence", "normalizers": ['
    return start * depth + '{"type": "NFC"}' + "]}" * depth


BPE = {"type": "BPE", "vocab": IDS, "merges": [["a", "b"]], "unk_token": "[UNK]"}
SPECIAL = {"id": "[UNK]", "ids": [4_000_000_000], "tokens": ["[UNK]"]}
TRIE = base64.b64encode((2**32 - 4).to_bytes(4, "little")).decode()
BROKEN = {
    "an empty vocabulary": (changed("model", "vocab", {}), "got an empty vocabulary"),
    "no unknown token": (changed("model", "unk_token", "?"), "WordLevel error"),
    "a huge id": (changed("model", "vocab", "b", 2**31), "got 2147483648"),
    "an id beyond": (changed("model", "vocab", "b", 2**32), "got 4294967296"),
    "a negative id": (changed("model", "vocab", "b", -1), "for 'b', got -1"),
    "an id that is a text": (changed("model", "vocab", "b", "2"), "got '2'"),
    "a vocabulary that is a list": (changed("model", "vocab", ["a"]), "got an error"),
    "a model that is a text": (changed("model", "BPE"), "got an error"),
    "a fixed padding": (
        changed("padding", "strategy", {"Fixed": 10**12}),
        "padding: expected Fixed up to 1048576, got 1000000000000",
    ),
    "a multiple": (
        changed("padding", "pad_to_multiple_of", 2**63),
        "padding: expected pad_to_multiple_of up to 1048576, got 9223372036854775808",
    ),
    "ids of the post-processor": (
        changed("post_processor", "special_tokens", {"[UNK]": SPECIAL}),
        "texts are encoded with 4000000000, which no token has",
    ),
    "type ids": (
        changed("post_processor", "pair", 2, "Sequence", "type_id", 4_000_000_000),
        "expected the type ids 0 and 1, but texts are encoded with 4000000000",
    ),
    "a template's token": (changed("post_processor", "special_tokens", {}), "no entry"),
    "a split of length 0": (
        changed("pre_tokenizer", {"type": "FixedLength", "length": 0}),
        "chunk size must be non-zero",
    ),
    "a prefix longer than tokens": (
        changed("model", {**BPE, "continuing_subword_prefix": "####"}),
        "out of range",
    ),
    "a token beyond the vocabulary": (
        changed("model", {**BPE, "merges": [["a", "c"]]}),
        "out of vocabulary",
    ),
    "a map of 4 GB": (precompiled(TRIE), "size of 4294967292 and 0 bytes"),
    "a map of no bytes": (precompiled("/w=="), "size of 255 and 0 bytes"),
    "a map that is no text": (precompiled(7), "size of 0 and 0 bytes"),
    "a map without a trie": (precompiled("AAAAAA=="), "index out of bounds"),
    "a list": (["a"], "got an error"),
}


def refusal(text: str, capfd) -> str:
    """The message about a tokenizer.json; nothing may be written to the terminal."""
    with pytest.raises(ValueError) as caught:
        tokenizer_trial.build("tokenizer.json", lambda: tokenizer_trial.parse(text))
    assert capfd.readouterr() == ("", "")
    message = str(caught.value)
    assert message.startswith("tokenizer.json: ") and "\n" not in message
    return message


@pytest.mark.parametrize("fields, text", BROKEN.values(), ids=BROKEN)
def test_is_refused_in_one_line(fields, text, capfd):
    with pytest.raises(ValueError, match=text):
        raise ValueError(refusal(json.dumps(fields), capfd))


def test_letters_in_escapes_hide_nothing(capfd):
    text = json.dumps(precompiled(TRIE)).replace("Precompiled", "\\u0050recompiled")
    assert "size of 4294967292" in refusal(text, capfd)
    plain = changed("normalizer", "X") | {"post_processor": None}
    text = json.dumps(plain).replace('"X"', nested(20_000))
    assert "recursion limit" in refusal(text, capfd)
    assert "than 100 levels" in refusal(text.replace("NFC", "Precompiled"), capfd)


def test_a_whole_one_is_read_as_it_is():
    text = json.dumps(wordlevel())
    tokenizer = tokenizer_trial.build("t", lambda: tokenizer_trial.parse(text))
    assert json.loads(tokenizer.to_str()) == wordlevel()
    # With a character map of sentencepiece: a trie without branches, and no texts.
    size = 1024
    trie = base64.b64encode(size.to_bytes(4, "little") + bytes(size)).decode()
    text = json.dumps(precompiled(trie))
    assert tokenizer_trial.parse(text).encode("a").ids[:2] == [0, 1]


def test_stderr_is_as_it_was(capfd):
    def read():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenizer_trial.build("t", read)
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


class TestPlainVocabularies:
    @pytest.mark.parametrize(
        "vocabulary, merges, text",
        [
            ("[]", "", "expected a JSON object in vocab.json, got list"),
            ('{"a": [0]}', "", r"vocab.json: expected a token id .* got \[0\]"),
            ('{"a": true}', "", "vocab.json: expected a token id .* got True"),
            (
                '{"a": 2147483647}',
                "",
                "vocab.json: .* in 0 … 16777215 for 'a', got 2147483647",
            ),
            ("{}", "", "vocab.json: expected tokens, got an empty vocabulary"),
            ('{"a": 0}', "a b", "vocab.json: expected a tokenizer, got an error"),
            ('{"a": 0}', '["a", "b"] c', "merges.txt, line 1: expected two tokens"),
            ('{"a": ' * 200 + "0" + "}" * 200, "", "vocab.json is not JSON .brackets"),
        ],
    )
    def test_of_another_kind(self, tmp_path, vocabulary, merges, text):
        (tmp_path / "vocab.json").write_text(vocabulary)
        (tmp_path / "merges.txt").write_text(merges)
        with pytest.raises(ValueError, match=f"^{tmp_path.name}: {text}"):
            find_files(tmp_path).tokenizer()

    def test_many_added_tokens_are_added_at_once(self, tmp_path):
        (tmp_path / "vocab.json").write_text('{"a": 0}')
        (tmp_path / "merges.txt").write_text("")
        added = {f"<{index}>": index for index in range(1, 20_001)}
        (tmp_path / "added_tokens.json").write_text(json.dumps(added))
        tokenizer = find_files(tmp_path).tokenizer()
        assert tokenizer.encode("<20000>a").ids == [20_000, 0]
        last = added | {"<20000>": 3}
        (tmp_path / "added_tokens.json").write_text(json.dumps(last))
        with pytest.raises(ValueError, match=r"^.*: added_tokens.json: expected '<"):
            find_files(tmp_path).tokenizer()
