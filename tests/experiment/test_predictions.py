"""What a model predicts, and how it scores, without anything that rounds."""

import numpy as np
import pytest

from lora_jax import quant
from lora_jax.experiment import presets
from lora_jax.experiment.predictions import predict
from tests.experiment.trained_runs import with_random_b


@pytest.fixture(scope="module")
def trained():
    run = presets.SMOKE.changed(quantize="nf4_double", rank=2, compute="bfloat16")
    return with_random_b(run)


def test_predictions_are_in_float32_whatever_the_run_is_in(trained):
    model, _, bench = trained
    predictions = predict(bench, model)
    expected = bench.predict(model, "test", compute="float32")
    np.testing.assert_array_equal(predictions.logits, expected)
    classes = predictions.logits.argmax(-1)
    accuracy = (classes == bench.encoded["test"].label).mean()
    assert predictions.scores["accuracy"] == pytest.approx(accuracy)


def test_a_bench_loads_the_pretrained_model_before_it_was_quantized(trained):
    bench = trained.bench
    assert quant.quantized_leaves(bench.model)
    original = bench.unquantized()
    assert not quant.quantized_leaves(original)
    assert original.config == bench.model.config
