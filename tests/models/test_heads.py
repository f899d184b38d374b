"""Encoders' checkpoints that have no pooler, or the head of another task.

tests/parity/test_heads.py has transformers' numbers.
"""

import importlib
from typing import Any

import numpy as np
import pytest

from lora_jax import tree
from tests.models.encoder_files import random_arrays, write

load = importlib.import_module("lora_jax.models.load")  # `models.load` is the function

BERT_HEAD = dict(classifier__weight=(3, 8), classifier__bias=(3,))
ROBERTA_HEAD = dict(
    classifier__dense__weight=(8, 8),
    classifier__dense__bias=(8,),
    classifier__out_proj__weight=(3, 8),
    classifier__out_proj__bias=(3,),
)
POOLER = ["pooler/bias", "pooler/kernel"]
HEAD = ["head/bias", "head/kernel"]
OUTPUT = ["head/output/bias", "head/output/kernel"]


def load_leaves(folder: Any, labels: int) -> tuple[dict[str, Any], list[str]]:
    """The leaves, and the paths that the report says were drawn."""
    lines: list[str] = []
    model, _ = load.load(folder, labels=labels, report=lines.append)
    drawn: list[str] = []
    for line in lines:
        listed = line.partition("no weights for ")[2].removesuffix("; drawn at random")
        drawn += listed.split(", ")
    return tree.leaves(model), drawn


@pytest.mark.parametrize(
    "kind, heads, changes, labels, drawn",
    [
        ("bert", BERT_HEAD, {}, 3, []),
        ("bert", BERT_HEAD, {}, 2, HEAD),
        ("bert", BERT_HEAD, {}, 1, HEAD),
        (
            "bert",
            BERT_HEAD,
            {"architectures": ["BertForTokenClassification"]},
            3,
            HEAD,
        ),
        ("bert", dict(qa_outputs__weight=(2, 8), qa_outputs__bias=(2,)), {}, 2, HEAD),
        ("roberta", ROBERTA_HEAD, {}, 3, []),
        ("roberta", ROBERTA_HEAD, {}, 2, OUTPUT),
    ],
)
def test_a_head_is_used_or_drawn(kind, heads, changes, labels, drawn, tmp_path):
    arrays = random_arrays(kind, **heads)
    # RoBERTa's own tokenizer has no vocab.txt.
    changes = {"tokenizer_class": "BertTokenizer", **changes}
    write(tmp_path, arrays, model_type=kind, **changes)
    leaves, reported = load_leaves(tmp_path, labels)
    assert reported == drawn
    output = "head/output" if kind == "roberta" else "head"
    assert leaves[f"{output}/kernel"].shape == (8, labels)
    if not drawn:
        name = "classifier.out_proj" if kind == "roberta" else "classifier"
        expected = arrays[f"{name}.weight"].T
        np.testing.assert_array_equal(leaves[f"{output}/kernel"], expected)
    if kind == "roberta":
        expected = arrays["classifier.dense.weight"].T
        np.testing.assert_array_equal(leaves["head/dense/kernel"], expected)


def test_a_pooler_is_drawn_where_only_masked_words_were_learned(tmp_path):
    arrays = random_arrays("bert", cls__predictions__bias=(9,))
    del arrays["bert.pooler.dense.weight"], arrays["bert.pooler.dense.bias"]
    write(tmp_path, arrays)
    leaves, drawn = load_leaves(tmp_path, labels=2)
    assert drawn == [*HEAD, *POOLER]
    # N(0, 0.02²), as both families began.
    assert 0 < np.abs(leaves["pooler/kernel"]).max() < 0.1
    expected = arrays["bert.encoder.layer.1.output.dense.weight"].T
    np.testing.assert_array_equal(leaves["blocks/mlp/down/kernel"][1], expected)


@pytest.mark.parametrize(
    "heads, missing, text",
    [
        ({}, "bert.pooler.dense.bias", r"missing \(1\):\n  pooler/bias \(8,\)"),
        (BERT_HEAD, "classifier.bias", r"missing \(1\):\n  head/bias \(3,\)"),
        (
            {},
            "bert.encoder.layer.0.output.dense.bias",
            r"missing \(1\):\n  blocks/mlp/down/bias \(2, 8\): layers 0",
        ),
        (
            dict(classifier__weight=(2, 7), classifier__bias=(2,)),
            "",
            r"classifier.weight \(2, 7\) in .*: expected \(3, 8\) for head/kernel",
        ),
    ],
)
def test_nothing_else_is_drawn(heads, missing, text, tmp_path):
    arrays = random_arrays("bert", **heads)
    arrays.pop(missing, None)
    write(tmp_path, arrays)
    with pytest.raises(ValueError, match=text):
        load.load(tmp_path, labels=3)
