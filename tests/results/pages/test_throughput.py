"""What LoRA saves of a step, and the peer's time, from steps of round numbers."""

import pandas as pd
import pytest

from lora_jax.results import claims
from lora_jax.results.grouping import groups
from lora_jax.results.pages import throughput as page


def row(framework, compute, method):
    """A step of 0.1 s and 200 MB; torch says no memory."""
    settings = {"framework": framework, "compute": compute, "method": method}
    metrics = {"step/seconds": 0.1, "step/tokens_per_second": 640.0}
    if framework == page.OURS:
        metrics["memory/peak_mb"] = 200.0
    machine = {"cpu": "EPYC", "cores": 2, "backend": "cpu"}
    return {
        "key": f"{framework} {compute} {method}",
        "config": {"model": "tiny", "steps": 3, **settings},
        "metrics": metrics,
        "provenance": {"machine": machine},
    }


def test_steps_stand_in_order_whatever_the_order_of_rows():
    kinds = [
        ("peft", "float32", "full"),
        (page.OURS, "bfloat16", "full"),
        (page.OURS, "float32", "lora"),
        (page.OURS, "float32", "full"),
    ]
    (group,) = groups([row(*kind) for kind in kinds], page.AXES)
    steps = page.step_table(group)
    order = list(steps[list(page.AXES)].itertuples(index=False, name=None))
    assert order == [kinds[3], kinds[2], kinds[1], kinds[0]]
    first, *_, peer = steps.to_dict("records")
    assert (first["step, ms"], first["tokens/s"], first["peak, MB"]) == (100, 640, 200)
    assert pd.isna(peer["peak, MB"])
    assert "model" not in page.step_text(steps)
    assert page.timed_on(group) == "EPYC, 2 cores, cpu; median of 3 steps."


def table(framework="lora_jax", scale=1.0, saving=0.75):
    """Full fine-tuning takes 100 ms and 400 MB, its checkpoint 1,000 times LoRA's."""
    lines = []
    for method, share, checkpoint in (("full", 1.0, 100.0), ("lora", saving, 0.1)):
        line = {"framework": framework, "compute": "float32", "method": method}
        line["step, ms"] = scale * 100 * share
        line["peak, MB"] = 400 * share
        lines.append({**line, "checkpoint, MB": checkpoint})
    return pd.DataFrame(lines)


def test_savings_are_held_against_the_papers_claims():
    saved = page.savings(table())
    assert list(saved.ours) == [25.0, 1.33, 1000.0]
    assert [text.partition(" ")[2] for text in saved.paper] == ["(L9)", "(L2)", "(L7)"]
    # 25 % are the paper's; 1.33 is not near 3, nor 1,000 near 10,000.
    assert list(saved.verdict) == [claims.REPRODUCED, *[claims.DIRECTION] * 2]


def test_a_lora_that_is_slower_saves_nothing():
    saved = page.savings(table(saving=1.5))
    assert saved.ours.iloc[0] == -50
    assert list(saved.verdict)[:2] == [claims.NOT_REPRODUCED] * 2


def test_a_claim_stands_once_and_is_as_good_as_its_worst_dtype():
    half = table(saving=0.99).assign(compute="bfloat16")
    saved = page.savings(pd.concat([table(), half]))
    time, memory, checkpoint = page.saving_claims(saved)
    assert time.evidence == "25 in float32, 1 in bfloat16"
    assert {time.verdict, memory.verdict, checkpoint.verdict} == {claims.DIRECTION}


def test_one_method_alone_has_nothing_to_compare():
    assert page.savings(table()[:1]).empty
    assert page.saving_claims(page.savings(table()[:1])) == []


def test_the_peers_time_is_the_divisor():
    both = pd.concat([table(), table("peft", scale=2.0)])
    ratios = page.against_peer(both)
    assert list(ratios["step, lora_jax / peft"]) == pytest.approx([0.5, 0.5])
    assert page.against_peer(table()).empty
