"""A step that is chosen by names: its shapes, its memory, and what is refused."""

import jax
import pytest

from lora_jax import models, tree
from lora_jax.accounting import compiled_step, encoder_step
from lora_jax.accounting.encoder_step import EncoderStep

STEP = EncoderStep("tiny", "lora", "query,value", 2, "float32", batch=4, length=16)


@pytest.fixture(scope="module")
def metrics():
    """The memory of the step, of which XLA says 100 bytes."""
    sizes = {"arguments": 70, "temporary": 30, "total": 100}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_step, "compiled_bytes", lambda *_, **__: sizes)
        return encoder_step.memory(STEP)


def test_trainable_and_frozen_leaves_are_shapes_of_the_adapted_model():
    trainable, frozen = encoder_step.shapes(STEP)
    a = tree.leaves(trainable)["blocks/attention/query/lora_a"]
    assert a.shape == (2, 16, 2)  # [L, in, r]
    leaves = tree.leaves((trainable, frozen)).values()
    assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}


def test_what_is_predicted_and_compiled_stand_in_one_table(metrics):
    assert metrics["compiled/total"] == 100
    weights = metrics["predicted/weights"] + metrics["predicted/optimizer"]
    assert metrics["predicted/temporary"] == metrics["predicted/total"] - weights


def test_the_parts_at_the_fullest_moment_sum_to_the_total(metrics):
    # As a row has them, where whole numbers may be floats.
    row = {name: float(size) for name, size in metrics.items()}
    parts = encoder_step.fullest_parts(row)
    assert sum(parts.values()) == metrics["predicted/total"]
    assert parts["weights"] == metrics["predicted/weights"]


def test_all_problems_are_listed_each_once():
    long = STEP._replace(length=65)
    encoder_step.check([STEP])
    with pytest.raises(ValueError) as error:
        encoder_step.check([STEP._replace(targets="qeury"), long, STEP, long])
    first, second = str(error.value).split("; expected ")
    assert first.startswith("targets: 'qeury' matches no layer")
    assert second == "at least 1 row of 1 to 64 tokens, tiny's positions; got 4 of 65"


def test_a_model_of_another_family_is_refused():
    message = "expected BERT or RoBERTa encoders, got gpt2 of the family gpt2"
    with pytest.raises(ValueError, match=message):
        encoder_step.encoder("gpt2")


@pytest.mark.real
def test_the_pretrained_model_has_the_shapes_of_its_architecture():
    shapes = []
    for model in (models.load("minilm-l6")[0], encoder_step.encoder("minilm-l6")):
        leaves = tree.leaves(model)
        shapes.append({path: leaf.shape for path, leaf in leaves.items()})
    assert shapes[0] == shapes[1]
