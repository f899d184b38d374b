"""LoRA's counts of trainable parameters: all of them, with their hyperparameters."""

from collections import Counter

import pytest

from lora_jax import paper


def count_of(table: int, model: str, method: str, published: str):
    """The one count of a table that is printed so."""
    matches = []
    for count in paper.lora.parameter_counts([table]):
        if (count.model, count.method, count.published) == (model, method, published):
            matches.append(count)
    assert len(matches) == 1
    return matches[0]


def test_all_counts_are_read_once():
    numbers = Counter(count.table for count in paper.lora.parameter_counts())
    assert numbers == {15: 30, 4: 8, 5: 7, 2: 13, 3: 12, 13: 11, 14: 11}


def test_hyperparameters_of_the_table_itself_come_first():
    table5 = paper.lora.parameter_counts([5])[4]
    assert (table5.hyperparameters, table5.known) == ("r_q=r_k=4", "printed")
    table15 = count_of(15, "GPT-3 175B", "PrefixLayer", "20.2M")
    assert (table15.hyperparameters, table15.known) == ("l_p=8,l_i=8", "printed")
    table4 = count_of(4, "GPT-3 175B", "PrefixLayer", "20.2M")
    assert (table4.hyperparameters, table4.known) == ("l_p=8,l_i=8", "appendix D.4")


def test_where_hyperparameters_are_from():
    assert count_of(2, "RoBERTa-base", "LoRA", "0.3M").known == "Table 9"
    assert count_of(13, "GPT-2 M", "AdapterL", "11M").known == "fitted"
    nothing = count_of(2, "RoBERTa-base", "BitFit", "0.1M")
    assert (nothing.hyperparameters, nothing.known) == ("-", "printed")


def test_known_reasons():
    large = count_of(2, "RoBERTa-large", "AdapterP", "3.0M")
    assert large.reason == "its matrices alone, without biases, are 3.0 x 2^20"
    assert count_of(2, "RoBERTa-large", "AdapterP", "0.8M").reason == ""


def test_every_setting_belongs_to_a_count():
    counts = set()
    for count in paper.lora.parameter_counts():
        counts.add((count.model, count.method, count.published))
    settings = paper.table("trainable_params_settings")
    keys = list(zip(settings.model, settings.method, settings.published, strict=True))
    assert set(keys) <= counts
    assert len(set(keys)) == len(keys)


def test_a_table_without_counts():
    with pytest.raises(ValueError, match=r"expected some of 15, 4, .*, got 6, 7"):
        paper.lora.parameter_counts([6, 2, 7])
    with pytest.raises(ValueError, match="got none"):
        paper.lora.parameter_counts([])
