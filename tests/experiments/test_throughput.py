"""The steps that are timed, what LoRA saves of them, and the peer's beside them."""

import pandas as pd
import pytest
import throughput

from lora_jax.results import claims


def table(framework="lora_jax", scale=1.0, saving=0.75):
    """Full fine-tuning takes 100 ms and 400 MB, its checkpoint 1,000 times LoRA's."""
    lines = []
    for method, share, checkpoint in (("full", 1.0, 100.0), ("lora", saving, 0.1)):
        line = {"framework": framework, "compute": "float32", "method": method}
        line["step, ms"] = scale * 100 * share
        line["peak, MB"] = 400 * share
        lines.append({**line, "checkpoint, MB": checkpoint})
    return pd.DataFrame(lines)


def test_each_framework_dtype_and_method_is_timed():
    options = throughput.Options(peer="peft")
    items = throughput.measurements(options, None, None)
    kinds = set()
    for item in items:
        kinds.add(tuple(item.settings[axis] for axis in throughput.AXES))
    assert len(items) == len(kinds) == 2 * 2 * 2
    # All in one call, so that they are timed in turn.
    assert {item.measure for item in items} == {throughput.measure}


def test_savings_are_held_against_the_papers_claims():
    saved = throughput.savings(table())
    assert list(saved.ours) == [25.0, 1.33, 1000.0]
    assert [text.partition(" ")[2] for text in saved.paper] == ["(L9)", "(L2)", "(L7)"]
    assert set(saved.verdict) == {claims.REPRODUCED}


def test_a_lora_that_is_slower_saves_nothing():
    saved = throughput.savings(table(saving=1.5))
    assert saved.ours.iloc[0] == -50
    assert list(saved.verdict)[:2] == [claims.NOT_REPRODUCED] * 2


def test_one_method_alone_has_nothing_to_compare():
    assert throughput.savings(table()[:1]).empty
    assert throughput.saving_claims(throughput.savings(table()[:1])) == []


def test_the_peers_time_is_the_divisor():
    both = pd.concat([table(), table("peft", scale=2.0)])
    ratios = throughput.against_peer(both)
    assert list(ratios["step, lora_jax / peft"]) == pytest.approx([0.5, 0.5])
    assert throughput.against_peer(table()) == ""
