"""The file of an adapter, and the model that is read back from it."""

import numpy as np
import pytest
import safetensors.numpy

from lora_jax import tree
from lora_jax.experiment import presets
from lora_jax.experiment.adapters import through_file
from tests.experiment.trained_runs import with_random_b


@pytest.fixture(scope="module")
def trained():
    return with_random_b(presets.SMOKE.changed(quantize="nf4_double", rank=2))


def test_only_trained_factors_are_in_the_file_and_they_come_back(trained):
    file, model = through_file(trained, None)
    names = {name for name in safetensors.numpy.load(file) if "lora" in name}
    expected = set()
    for layer in ("query", "value"):
        for part in "ab":
            expected.add(f"blocks/attention/{layer}/lora_{part}")
    assert names == expected
    leaves = tree.leaves(trained.model)
    for path, leaf in tree.leaves(model).items():
        if "/base/" not in path:
            np.testing.assert_array_equal(leaf, leaves[path])


def test_a_format_rounds_the_factors_alone(trained):
    file, model = through_file(trained, "nf4")
    assert len(file) < len(through_file(trained, None)[0])
    leaves = tree.leaves(trained.model)
    b = "blocks/attention/query/lora_b"
    rounded = tree.leaves(model)
    assert 0 < np.abs(rounded[b] - leaves[b]).max() < 0.1
    for path, leaf in rounded.items():
        if path.startswith("head"):
            np.testing.assert_array_equal(leaf, leaves[path])
