"""Parts of examples, and the split that a hash gives."""

import hashlib

import numpy as np
import pytest

from lora_jax import data
from lora_jax.data.task import hashed_split
from tests.data.files import message, pairs

FOUR = data.Examples(["b", "a", "b", "c"], ["1", "2", "3", "4"], np.zeros(4, np.int32))


def test_hashed_split_is_the_documented_hash():
    bucket = int(hashlib.sha256(b"heat").hexdigest()[:8], 16) % 10
    expected = {0: "test", 1: "validation"}.get(bucket, "train")
    assert hashed_split("heat") == expected
    splits = [hashed_split(str(i)) for i in range(2000)]
    shares = [splits.count(name) / 2000 for name in ("train", "test")]
    assert shares == pytest.approx([0.8, 0.1], abs=0.03)


def test_subset_is_a_shuffled_prefix_and_keeps_rows_together():
    texts = [str(i) for i in range(9)]
    seconds = [f"p{i}" for i in range(9)]
    examples = data.Examples(texts, seconds, np.arange(9, dtype=np.int32))
    small = data.subset(examples, 3)
    large = data.subset(examples, 6)
    everything = data.subset(examples, 100)
    assert small.text == large.text[:3] == everything.text[:3]
    assert sorted(everything.text) == examples.text
    assert small.text != examples.text[:3]
    assert small.text != data.subset(examples, 3, seed=1).text
    assert [str(label) for label in small.label] == small.text
    assert small.pair == [f"p{text}" for text in small.text]
    assert "at least 1 row in a subset, got 0" in message(data.subset, examples, 0)


def test_references_group_targets_by_source_in_order():
    assert list(data.references(FOUR).items()) == [
        ("b", ["1", "3"]),
        ("a", ["2"]),
        ("c", ["4"]),
    ]
    assert "texts alone" in message(data.references, FOUR._replace(pair=None))


def test_a_subset_of_sources_keeps_all_their_targets():
    # 10 sources with 3 targets each.
    sources = [f"s{i // 3}" for i in range(30)]
    targets = [str(i) for i in range(30)]
    examples = data.Examples(sources, targets, np.zeros(30, np.int32))
    part = data.subset_of_sources(examples, 4)
    larger = data.subset_of_sources(examples, 6)
    assert len(part.text) == len(part.label) == 12
    assert set(part.text) < set(larger.text)
    assert len(data.references(larger)) == 6
    assert data.references(part).items() <= data.references(examples).items()
    # Rows stay in their order.
    assert part.pair
    assert part.pair == sorted(part.pair, key=int)
    assert part.text != data.subset_of_sources(examples, 4, seed=1).text


def test_a_subset_of_all_sources():
    assert data.subset_of_sources(FOUR, 0) is FOUR
    assert pairs(data.subset_of_sources(FOUR, 99)) == pairs(FOUR)
    text = message(data.subset_of_sources, FOUR, -1)
    assert "0 (all) or more sources, got -1" in text
