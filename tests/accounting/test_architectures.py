"""Architectures: their names, and their abstract models."""

import jax
import pytest

from lora_jax import accounting, tree
from lora_jax.accounting.architectures import abstract_model, find_architecture


def test_an_architecture_is_found_by_name_or_is_itself():
    sizes = accounting.ARCHITECTURES["gpt2"]
    assert find_architecture("gpt2") is sizes
    assert find_architecture(sizes) is sizes


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError) as caught:
        find_architecture("gpt3")
    message = "architecture: expected one of gpt2, gpt3-175b, "
    assert str(caught.value).startswith(message)


def test_an_abstract_model_has_all_parameters_and_no_weights():
    before = sum(array.nbytes for array in jax.live_arrays())
    model = abstract_model(accounting.ARCHITECTURES["gpt3-175b"])
    assert tree.count(model) == accounting.total_parameters("gpt3-175b")
    after = sum(array.nbytes for array in jax.live_arrays())
    assert after <= before + 1000


def test_a_family_without_a_model_is_refused():
    with pytest.raises(ValueError) as caught:
        abstract_model(accounting.ARCHITECTURES["deberta-v2-xxl"])
    assert str(caught.value) == (
        "family: expected one of bert, roberta, gpt2, got deberta (deberta-v2-xxl)"
    )
