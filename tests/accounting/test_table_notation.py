"""Methods as LoRA's tables print them."""

import pytest

from lora_jax.accounting import (
    Adapter,
    BitFit,
    Both,
    FineTune,
    LoRA,
    Prefix,
    parse_method,
    trainable_parameters,
)
from lora_jax.paper.parameter_counts import parameter_counts


@pytest.mark.parametrize(
    ("name", "hyperparameters", "method"),
    [
        ("Fine-Tune", "-", FineTune()),
        ("FTTop2", "-", FineTune(blocks=2)),
        ("BitFit", "-", BitFit()),
        ("PrefixEmbed", "l_p=256,l_i=8", Prefix(256, 8)),
        ("PrefixLayer", "l_p=8,l_i=8", Prefix(8, 8, every_layer=True)),
        ("AdapterH", "r=8", Adapter(8)),
        ("AdapterL", "r=8", Adapter(8, per_block=1, norms=1)),
        ("AdapterP", "r=8", Adapter(8, per_block=1)),
        ("AdapterD", "r=48,blocks=4", Adapter(48, per_block=1, blocks=4)),
        ("AdapterD", "r=48", Adapter(48, per_block=1)),
        ("LoRA", "r_q=r_v=4", LoRA("query,value", 4)),
        ("LoRA", "r_v=2", LoRA("value", 2)),
        (
            "LoRA+PE",
            "r_q=r_v=8,l_p=8,l_i=4",
            Both(LoRA("query,value", 8), Prefix(8, 4)),
        ),
        (
            "LoRA+PL",
            "r_q=r_v=8,l_p=8,l_i=4",
            Both(LoRA("query,value", 8), Prefix(8, 4, every_layer=True)),
        ),
    ],
)
def test_each_method(name, hyperparameters, method):
    assert parse_method(name, hyperparameters) == method


def test_every_published_count_has_a_method():
    for count in parameter_counts():
        method = parse_method(count.method, count.hyperparameters)
        assert trainable_parameters(method, "gpt3-175b") > 0


@pytest.mark.parametrize(
    ("name", "hyperparameters", "message"),
    [
        ("LoRa", "-", "method: expected one of Fine-Tune, .*, got 'LoRa'"),
        ("AdapterH", "-", "hyperparameters: expected r for AdapterH, got '-'"),
        ("LoRA", "r=8", "expected r_q or r_k or r_v or r_o for LoRA, got 'r=8'"),
        ("LoRA", "r_q=4,r_v=8", "expected one rank for all matrices, got"),
    ],
)
def test_what_cannot_be_parsed_is_refused(name, hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        parse_method(name, hyperparameters)
