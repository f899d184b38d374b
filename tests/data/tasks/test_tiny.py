"""The tiny tasks: always the same, and what a smoke run needs."""

import numpy as np

from lora_jax import data
from lora_jax.data.tasks import tiny
from tests.data.files import pairs, sizes


def test_tiny_has_both_labels_as_often():
    task = data.load("tiny")
    assert sizes(task) == {"train": 64, "validation": 32, "test": 32}
    assert task.splits["train"].label.sum() == 32
    np.testing.assert_equal(data.load("tiny"), task)


def test_tiny_nlg_has_two_targets_a_source_and_no_source_in_two_splits():
    task = data.load("tiny-nlg")
    assert sizes(task) == {"train": 64, "validation": 16, "test": 16}
    assert task.metrics == ("bleu",)
    assert len(tiny.NAMES) == 6
    groups = [data.references(examples) for examples in task.splits.values()]
    sources = set()
    for group in groups:
        sources.update(group)
        for targets in group.values():
            assert len(set(targets)) == 2
    assert sum(map(len, groups)) == len(sources)
    np.testing.assert_equal(data.load("tiny-nlg"), task)


def test_tiny_nlg_is_plain_words():
    task = data.load("tiny-nlg")
    words = set()
    for examples in task.splits.values():
        for source, target in pairs(examples):
            words.update(source.split())
            words.update(target.split())
    for word in words - {":", "|"}:
        assert word.isalnum()
        assert word.isascii()
    assert task.splits["test"].text[0].startswith("name : ")
