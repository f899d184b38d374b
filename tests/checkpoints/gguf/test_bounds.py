"""A GGUF header that asks for too much, or has values of another type, is an error."""

import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from lora_jax.checkpoints.gguf import read
from lora_jax.checkpoints.gguf.factors import FACTORS, read_factors
from lora_jax.checkpoints.gguf.file import File
from lora_jax.checkpoints.gguf.tokenizer_fields import read_fields
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models import sources
from tests.models.gguf_model import LETTERS, write_gguf

U8, U32, U64, STRING, ARRAY = 0, 4, 10, 8, 9


def number(value: int, size: int = 8) -> bytes:
    return value.to_bytes(size, "little")


def text(value: bytes) -> bytes:
    return number(len(value)) + value


def header(*pairs: bytes, tensors: bytes = b"", count: int = 0) -> bytes:
    start = b"GGUF" + number(3, 4) + number(count) + number(len(pairs))
    return start + b"".join(pairs) + tensors


def pair(kind: int, content: bytes, key: bytes = b"k") -> bytes:
    return text(key) + number(kind, 4) + content


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return pair(ARRAY, number(kind, 4) + number(count) + content)


BROKEN = {
    "keys": (b"GGUF" + number(3, 4) + number(0) + number(2**60), "up to 100,000"),
    "tensors": (header(count=2**60), "expected up to 100,000 items, got 1,152"),
    "a text past the end": (header(pair(STRING, number(2**62))), "k: expected 46"),
    "items of texts": (header(array(STRING, 2**60)), "k: expected up to 2,097,152"),
    "items of numbers": (header(array(U8, 2**21, b"x")), "k: expected 2097152 bytes"),
    "20 MB": (header(array(U8, 20_000_000, bytes(20_000_000))), "got 20,000,000"),
    "arrays in arrays": (header(array(ARRAY, 2)), "k: expected numbers or texts"),
    "a type": (header(pair(77, b"")), "k: expected a type among .*, got 77"),
    "no UTF-8": (header(pair(STRING, text(b"\xff"))), "k: 'utf-8' codec"),
    "a key twice": (header(pair(U32, bytes(4)), pair(U32, bytes(4))), "'k' twice"),
    "an alignment": (
        header(pair(U32, bytes(4), b"general.alignment")),
        "general.alignment: expected a whole number above 0, got 0",
    ),
    "axes": (
        header(tensors=text(b"t") + number(2**32 - 1, 4), count=1),
        "expected up to 64 items, got 4,294,967,295",
    ),
    "no axes": (
        header(tensors=text(b"t") + bytes(4) + bytes(4) + bytes(8), count=1),
        r"no or more than 4 dimensions \(1\): t \(\)",
    ),
    "an axis of 2^63": (
        header(tensors=text(b"t") + number(1, 4) + number(2**63) + bytes(12), count=1),
        "cut off",
    ),
}


@pytest.mark.parametrize("content, message", BROKEN.values(), ids=BROKEN)
def test_no_more_is_read_than_there_is(tmp_path, content, message):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert time.process_time() - start < 1
    assert str(caught.value).startswith(f"{path}: ")


def test_values_are_those_of_the_package(tmp_path):
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    values: dict[str, Any] = {
        "u8": 200, "i8": -3, "u16": 60_000, "i16": -300, "u32": 2**31, "i32": -7,
        "u64": 2**63, "i64": -(2**40), "f32": 0.5, "f64": 0.1, "bool": True,
        "text": "Ġ☃", "texts": ["", "a"], "numbers": [1, -2], "floats": [0.5, 2.0],
    }  # fmt: skip
    kinds = {"u8": "uint8", "i8": "int8", "u16": "uint16", "i16": "int16"}
    kinds |= {"u32": "uint32", "i32": "int32", "u64": "uint64", "i64": "int64"}
    kinds |= {"f32": "float32", "f64": "float64", "text": "string"}
    for name, value in values.items():
        add = getattr(writer, f"add_{kinds.get(name, name)}", writer.add_array)
        add(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = read(path).metadata
    assert metadata == {"general.architecture": "llama", **values}
    assert metadata["bool"] is True


def fields(**changes: Any) -> File:
    """The metadata of a tokenizer, with other values."""
    metadata = {
        "model": "llama",
        "tokens": ["<unk>", "a", "b", "ab"],
        "token_type": [2, 1, 1, 1],
        "scores": [0.0, -1.0, -2.0, -3.0],
        "add_bos_token": False,
        **changes,
    }
    prefixed = {f"tokenizer.ggml.{name}": value for name, value in metadata.items()}
    return File(prefixed, {})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": ["gpt2"]}, r"model: expected one of gpt2, llama, got \['gpt2'\]"),
        ({"model": "gpt2", "pre": ["gpt-2"], "merges": []}, "pre: expected one of"),
        ({"tokens": "abcd"}, "tokens: expected a list, got 'abcd'"),
        ({"tokens": ["<unk>", 1, 2, 3]}, "tokens: expected a text in place 1, got 1"),
        ({"tokens": ["<unk>", "a", "b", "x" * 10**6]}, "up to 1,024 characters, got"),
        ({"scores": ["a"] * 4}, "scores: expected a number in place 0, got 'a'"),
        ({"token_type": [1.5] * 4}, "token_type: expected a whole number in place 0"),
        ({"merges": [1, 2]}, "merges: expected a text in place 0, got 1"),
        ({"merges": 7}, "merges: expected a list, got 7"),
        ({"unknown_token_id": ["a"] * 10**5}, r"got \['a', 'a', .*\.\.\.\]$"),
    ],
)
def test_a_tokenizer_s_lists_hold_their_kind(changes, message):
    read_fields(fields())
    with pytest.raises(ValueError, match=message) as caught:
        read_fields(fields(**changes))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "factors, message",
    [
        ([[1.0, 2.0]], r"expected a vector, got the shape \(1, 2\)"),
        ([1.0, 0.0], "expected finite numbers above 0, got 0.0"),
        ([float("nan")], "expected finite numbers above 0, got nan"),
        ([-1.0], "expected finite numbers above 0, got -1.0"),
    ],
)
def test_factors_that_divide_nothing(factors, message):
    numbers = np.array(factors, np.float32)
    tensor = Tensor("m", numbers.shape, numbers.dtype, lambda: numbers)
    with pytest.raises(ValueError, match=f"{FACTORS}: {message}"):
        read_factors(File({}, {FACTORS: tensor}))


@pytest.mark.parametrize(
    "key, kind, value",
    [
        ("llama.block_count", U32, number(0, 4)),
        ("llama.attention.head_count", STRING, text(b"two")),
        ("llama.embedding_length", ARRAY, number(U8, 4) + number(2) + b"ab"),
        ("llama.vocab_size", ARRAY, number(U8, 4) + number(2) + b"ab"),
        ("llama.attention.head_count_kv", 6, struct.pack("<f", float("nan"))),
        ("general.architecture", ARRAY, number(U8, 4) + number(2000) + bytes(2000)),
        ("tokenizer.ggml.tokens", STRING, text(b"abc")),
    ],
)
def test_metadata_of_another_type_is_one_error(tmp_path, key, kind, value):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    _set(path, key, pair(kind, value, key.encode()))
    with pytest.raises(ValueError) as caught:
        files = sources.find_files(path)
        files.config()
        files.tokenizer()
    assert str(caught.value).startswith("m.gguf: ")
    assert max(map(len, str(caught.value).split("\n"))) < 500


def _set(path: Path, key: str, replacement: bytes) -> None:
    """Write another pair in the place of a key, or after the others."""
    content = path.read_bytes()
    count = int.from_bytes(content[16:24], "little")
    renamed = content.replace(text(key.encode()), text(b"x" * len(key)))
    added = renamed[:16] + number(count + 1) + replacement + renamed[24:]
    path.write_bytes(added + bytes(64))


def test_the_letters_of_the_fixture_are_a_tokenizer(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    _set(tmp_path / "m.gguf", "general.name", pair(STRING, text(b"n"), b"general.name"))
    tokenizer = sources.find_files(tmp_path / "m.gguf").tokenizer()
    assert tokenizer.get_vocab_size() == len(LETTERS)
