"""Which of two values of a metric is the better one."""

from lora_jax.metric_order import LOWER_IS_BETTER, higher_is_better


def test_losses_and_errors_are_better_if_lower():
    assert {"loss", "perplexity", "ter"} == LOWER_IS_BETTER
    assert not any(map(higher_is_better, LOWER_IS_BETTER))
    assert all(map(higher_is_better, ["accuracy", "f1", "bleu", "spearman"]))
