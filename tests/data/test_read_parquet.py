"""Parquet of all types, sizes and states."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from lora_jax import data
from tests.data.files import message

TEXTS = [f"text {number}" for number in range(100)]
LABELS = [number % 2 for number in range(100)]


def written(path, **columns):
    parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("text", "label", "labels"),
    [
        (pa.array(TEXTS, pa.large_string()), pa.array(LABELS, pa.uint8()), ("0", "1")),
        (
            pa.array(TEXTS).dictionary_encode(),
            pa.array(["no", "yes"] * 50).dictionary_encode(),
            ("no", "yes"),
        ),
        (pa.array(TEXTS), pa.array(list(map(bool, LABELS))), ("False", "True")),
        (pa.array(TEXTS), pa.array(LABELS, pa.float32()), ("0", "1")),
    ],
)
def test_types_of_text_and_labels(tmp_path, text, label, labels):
    # Columns of other types are in nobody's way, even where Python has no such value.
    far = pa.array([2**62] * 100, pa.timestamp("us"))
    lists = pa.array([[1, 2]] * 100)
    path = written(tmp_path / "a.parquet", text=text, label=label, far=far, lists=lists)
    task = data.load(path)
    assert task.labels == labels
    assert sum(len(split.text) for split in task.splits.values()) == 100
    assert set(task.splits["test"].text) < set(TEXTS)


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        (
            [[text] for text in TEXTS],
            LABELS,
            "row 1: text: expected some text, got Arrow's type list\n",
        ),
        (
            [text.encode() for text in TEXTS],
            LABELS,
            "row 1: text: expected some text, got Arrow's type binary",
        ),
        (pa.nulls(100), LABELS, "row 1: text: expected some text, got None"),
        (
            TEXTS,
            pa.array(LABELS, pa.timestamp("s")),
            "label: expected a word or a number of at most 200 characters, got Arrow's "
            "type timestamp\n",
        ),
    ],
)
def test_other_types_are_named(tmp_path, text, label, expected):
    path = written(tmp_path / "a.parquet", text=text, label=label)
    assert expected in message(data.load, path)


def test_many_rows_in_a_small_file(tmp_path):
    path = tmp_path / "a.parquet"
    nothing = pa.table({"text": pa.nulls(5_000_000), "label": pa.nulls(5_000_000)})
    parquet.write_table(nothing, path)
    assert path.stat().st_size < 20_000
    assert message(data.load, path) == (
        "a.parquet: expected a table of at most 4,000,000 rows, got 5,000,000"
    )


def test_one_long_text_many_times(tmp_path):
    # 100 GB of text in some kilobytes.
    indices = pa.array(np.zeros(100_000, np.int32))
    text = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 10**6]))
    path = written(tmp_path / "a.parquet", text=text, label=np.arange(100_000) % 2)
    assert "expected at most 1,073,741,824 characters, got 100,000,000,000" in message(
        data.load, path
    )


def test_metadata_of_somebody_else(tmp_path):
    table = pa.table({"text": TEXTS, "label": LABELS})
    table = table.replace_schema_metadata({b"pandas": b"{", b"huggingface": b"[["})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert data.load(tmp_path / "a.parquet").labels == ("0", "1")
    table = table.replace_schema_metadata({b"ARROW:schema": b"none"})
    parquet.write_table(table, tmp_path / "a.parquet")
    text = message(data.load, tmp_path / "a.parquet")
    assert text.startswith("a.parquet: not a readable Parquet file: ")
    assert "\n" not in text


def test_too_many_columns_and_two_of_one_name(tmp_path):
    path = written(tmp_path / "a.parquet", **{f"c{i}": [1] for i in range(1001)})
    assert "at most 1,000 columns, got 1,001" in message(data.load, path)
    table = pa.table([TEXTS, TEXTS, LABELS], names=["text", "text", "label"])
    parquet.write_table(table, path)
    assert "the column 'text' is there more than once" in message(data.load, path)
