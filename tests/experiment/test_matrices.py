"""The matrices that a run adapts, on the tiny encoder of width 16 with an MLP of 32."""

import pytest

from lora_jax.experiment import NO_METHOD
from lora_jax.experiment.matrices import stacked_matrices
from tests.experiment.toy import BASE


def matrices(benches, side=None, **changes) -> list[str]:
    return stacked_matrices(BASE.changed(**changes), benches, side)


def message_of(benches, side=None, **changes) -> str:
    with pytest.raises(ValueError) as error:
        matrices(benches, side, **changes)
    return str(error.value)


@pytest.mark.parametrize(
    ("targets", "paths"),
    [
        ("query", ["blocks/attention/query"]),
        ("query,value", ["blocks/attention/query", "blocks/attention/value"]),
        ("blocks/mlp/.*", ["blocks/mlp/down", "blocks/mlp/up"]),
    ],
)
def test_they_are_paths_of_stacked_layers(benches, targets, paths):
    assert sorted(matrices(benches, targets=targets)) == paths


@pytest.mark.parametrize("side", ["input", "output"])
def test_matrices_of_one_width_have_directions_in_one_space(benches, side):
    both = matrices(benches, side, targets="query,value")
    assert len(both) == 2


def test_matrices_of_several_widths_do_not(benches):
    # In is the side of A, which has the layer's input width.
    text = message_of(benches, "input", targets="blocks/mlp/.*")
    assert text.startswith(
        "expected low-rank adapters of one width on the input side, got {"
    )
    assert "'blocks/mlp/up': 16" in text
    assert "'blocks/mlp/down': 32" in text
    text = message_of(benches, "output", targets="blocks/mlp/.*")
    assert "'blocks/mlp/up': 32" in text
    assert "'blocks/mlp/down': 16" in text
    # Without a side their widths do not matter.
    assert len(matrices(benches, targets="blocks/mlp/.*")) == 2


@pytest.mark.parametrize("method", ["full", "prefix", NO_METHOD])
def test_a_method_without_low_rank_adapters_is_refused(benches, method):
    text = message_of(benches, method=method)
    assert text == f"method: expected low-rank adapters, as lora's, got {method}"


def test_a_layer_outside_the_blocks_is_refused(benches):
    text = message_of(benches, targets="query,pooler")
    assert text == ("targets: expected matrices that every block has, got also pooler")
