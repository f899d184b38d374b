"""What rounding changes, on matrices small enough to check by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from lora_jax import methods, quant, tree
from lora_jax.analysis import (
    adapter_error,
    adapter_file_bits,
    mean_merge_errors,
    merge_errors,
    prediction_change,
    stored_bits,
)
from lora_jax.methods.lora import LoRA
from lora_jax.nn.layers import Linear


def zeros_but(entries):
    """A matrix [1, 32, 32] of zeros with these entries of its one layer."""
    matrix = np.zeros((1, 32, 32), np.float32)
    for (row, column), value in entries.items():
        matrix[0, row, column] = value
    return jnp.asarray(matrix)


class TestMerge:
    @pytest.fixture
    def model(self):
        """LoRA on 4-bit zeros: ΔW has a 2 in its corner."""
        base = quant.quantize(jnp.zeros((1, 32, 32)), "nf4").T
        a = jnp.zeros((1, 32, 1)).at[0, 0, 0].set(1.0)
        b = jnp.zeros((1, 1, 32)).at[0, 0, 0].set(2.0)
        return {"up": LoRA(Linear(base), a, b, jnp.ones((1, 1)))}

    def test_distance_and_share_by_hand(self, model):
        merged = {"up": Linear(zeros_but({(0, 0): 1.0, (1, 1): 2.0}))}
        errors = merge_errors(model, merged)["up"]
        # Half of ΔW is in it; it is 1 too low in the corner and 2 too high elsewhere.
        assert errors["kept"] == [0.5]
        assert errors["distance"] == [pytest.approx(5**0.5 / 2)]

    def test_a_merge_into_dequantized_weights_is_exact(self, model):
        errors = merge_errors(model, methods.merge(model))["up"]
        assert errors == {"distance": [0.0], "kept": [1.0]}

    def test_errors_are_means_over_matrices_and_layers(self):
        errors = {
            "query": {"distance": [0.1, 0.3], "kept": [1.0, 0.8]},
            "value": {"distance": [0.5, 0.7], "kept": [0.6, 0.4]},
        }
        means = mean_merge_errors(errors)
        assert means == pytest.approx({"distance": 0.4, "kept": 0.7})

    def test_stored_bits(self):
        base = quant.quantize(jnp.zeros((1, 32, 32)), "nf4").T
        bits = stored_bits({"blocks": {"kernel": base}})
        # 4 bits, and a float32 scale for each block of 64.
        assert bits == quant.bits_per_parameter(base) == 4.5

    def test_the_base_is_counted_once_with_its_adapter(self, model):
        assert tree.count(model["up"]) == 32 * 32 + 32 + 32 + 1


class TestAdapter:
    @pytest.fixture
    def adapted(self, tiny):
        """Make a model whose ΔW are constant matrices of these two values."""

        def make(query, value):
            method = methods.lora("query,value", rank=1, alpha=1)
            model = method.adapt(jax.random.key(0), tiny())
            factors = {}
            for path, leaf in tree.leaves(model).items():
                if "lora" in path:
                    factors[path] = jnp.ones_like(leaf)
            factors["blocks/attention/query/lora_b"] *= query
            factors["blocks/attention/value/lora_b"] *= value
            return tree.replace(model, factors)

        return make

    def test_error_by_hand(self, adapted):
        assert adapter_error(adapted(3, 4), adapted(3, 4)) == 0
        # 0.5 of sqrt(9 + 16)
        error = adapter_error(adapted(3, 4), adapted(3.5, 4))
        assert error == pytest.approx(0.1)
        assert adapter_error(adapted(3, 4), adapted(0, 0)) == 1

    def test_bits_of_a_file_count_its_factors_alone(self, adapted):
        model = adapted(3, 4)
        # Two matrices of two layers and width 16 have 2 * 2 * (16 + 16) numbers.
        factors = np.zeros(128, np.float16)
        file = {"blocks/attention/query/lora_a": factors, "head/bias": factors}
        bits = adapter_file_bits(safetensors.numpy.save(file), model)
        assert bits == 16


class TestPredictions:
    BEFORE = np.array([[3.0, 0.0], [1.0, 0.0]])

    def test_unchanged_logits(self):
        change = prediction_change(self.BEFORE, self.BEFORE)
        assert change == {
            "logits/distance": 0.0,
            "logits/largest": 0.0,
            "logits/same_class": 1.0,
        }

    def test_changed_logits_by_hand(self):
        # The mean is [2, 0], so that ||before - mean|| is sqrt(2).
        after = np.array([[3.0, 0.0], [-1.0, 0.0]])
        change = prediction_change(self.BEFORE, after)
        assert change["logits/distance"] == pytest.approx(2 / 2**0.5)
        assert change["logits/largest"] == 2
        assert change["logits/same_class"] == 0.5
