"""Encoders saved for another task have transformers' hidden states, and a new head."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lora_jax import models, tree
from lora_jax.models.bert import Encoder
from tests.models.small_bert import CONFIG, WORDS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = np.array([[2, 5, 6, 7, 3], [2, 8, 8, 5, 3]])
hidden = jax.jit(Encoder.hidden)


def save(folder: Path, task: str, kind: str, **changes: Any) -> Any:
    """transformers' model of a task with random weights, saved with a vocabulary."""
    torch.manual_seed(0)
    options: dict[str, Any] = CONFIG | changes
    del options["model_type"]
    config = getattr(transformers, f"{kind}Config")(**options)
    theirs = getattr(transformers, f"{kind}For{task}")(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(float("LayerNorm.weight" in name), 0.3)
    theirs.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    # RoBERTa's own tokenizer has no vocab.txt.
    settings = json.dumps({"tokenizer_class": "BertTokenizer"})
    (folder / "tokenizer_config.json").write_text(settings)
    return theirs


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
@pytest.mark.parametrize(
    "task",
    ["MaskedLM", "QuestionAnswering", "TokenClassification", "SequenceClassification"],
)
def test_hidden_states(kind, task, tmp_path):
    classes = 2 if task == "QuestionAnswering" else 3
    theirs = save(tmp_path, task, kind, num_labels=classes)
    model, _ = models.load(tmp_path, labels=2)
    with torch.no_grad():
        outputs = theirs(input_ids=torch.tensor(TOKENS), output_hidden_states=True)
    expected = outputs.hidden_states[-1].numpy()
    actual = hidden(model, TOKENS)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)

    # What transformers draws too, when such a checkpoint becomes a classifier of two.
    leaves = tree.leaves(model)
    output = "head/output" if kind == "Roberta" else "head"
    assert leaves[f"{output}/kernel"].shape == (8, 2)
    if task == "SequenceClassification":
        layer = (
            theirs.classifier.dense if kind == "Roberta" else theirs.bert.pooler.dense
        )
        kernel = "head/dense/kernel" if kind == "Roberta" else "pooler/kernel"
        expected = layer.weight.detach().numpy().T
        np.testing.assert_array_equal(leaves[kernel], expected)
