"""The page on QLoRA's Figure 6, from accounts that are as far off as one chooses."""

import pytest

from lora_jax.paper.qlora import MB, figure6
from lora_jax.results import claims
from lora_jax.results.pages import qlora_memory as page


def rows(ours=1.0, fitted=0.5):
    """The paper's bars times two factors, the last model first."""
    sizes: dict[str, dict[str, float]] = {}
    for (name, part), mb in figure6().items():
        metrics = sizes.setdefault(name, {})
        metrics[f"ours/{part}"] = ours * mb * MB
        metrics[f"fitted/{part}"] = fitted * mb * MB
    result = []
    for name, metrics in reversed(sizes.items()):
        metrics |= {"sequence/inputs_of_blocks": 3 * MB, "full/total": 781e9}
        result.append({"config": {"base": name}, "metrics": metrics})
    return result


def test_models_stand_in_the_papers_order_and_one_may_be_missing():
    metrics = page.metrics_by_model(rows())
    assert list(metrics) == ["LLaMA 7B", "LLaMA 13B", "LLaMA 33B", "LLaMA 65B"]
    assert page.is_complete(metrics)
    some = page.metrics_by_model(rows()[1:])
    assert list(some) == ["LLaMA 7B", "LLaMA 13B", "LLaMA 33B"]
    assert not page.is_complete(some)


def test_a_line_has_both_accounts_and_their_differences():
    table = page.bar_table(page.metrics_by_model(rows()))
    assert list(table.part[:6]) == [
        "model",
        "adapters",
        "weight gradient",
        "optimizer",
        "input gradient",
        "total",
    ]
    line = table.iloc[0].to_dict()
    assert (line["paper"], line["ours"], line["fitted"]) == (5046, 5046, 2523)
    assert (line["difference, %"], line["of fitted, %"]) == (0, -50)


def test_the_text_has_the_numbers_of_each_model():
    metrics = page.metrics_by_model(rows(ours=0.9))
    table = page.bar_table(metrics)
    text = page.explanation(metrics, table, bits=4.5, decimal_bits=4.25)
    text = " ".join(text.split())
    assert "ours are 10, 10, 10 and 10 % below them" in text
    assert "by 4.50 bits" in text
    assert "it would be 4.25, between the two" in text
    assert "2,523, 4,238, 9,651 and 18,537 MB are left over" in text
    assert "2 L T h (3, 3, 3 and 3 MB)" in text


def test_numbers_in_words():
    assert page.in_words([1234.4, 2, -3]) == "1,234, 2 and -3"


def test_the_papers_bar_alone_has_a_label():
    table = page.bar_table(page.metrics_by_model(rows()[3:]))
    (ax,) = page.figure(table).axes
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["paper", "ours", "fitted"]
    # Three bars of five parts, and the label.
    assert len(ax.patches) == 16
    assert ax.patches[15].get_width() == 6900


@pytest.mark.parametrize(
    ("ours", "verdict"), [(1.0, claims.EQUAL), (0.95, claims.NEAR)]
)
def test_a_claim_is_as_good_as_its_worst_number(ours, verdict):
    metrics = page.metrics_by_model(rows(ours))
    in_all, full, qlora = page.figure6_claims(metrics, page.bar_table(metrics))
    assert in_all.verdict == verdict
    assert full.verdict == claims.FITTED
    assert full.evidence == "781.0 GB at 12 bytes each"
    assert qlora.verdict == claims.EQUAL


def test_nothing_is_claimed_while_a_model_is_missing():
    metrics = page.metrics_by_model(rows()[1:])
    assert page.figure6_claims(metrics, page.bar_table(metrics)) == []
