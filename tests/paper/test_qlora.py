"""QLoRA's tables by our names of formats."""

import math

from lora_jax import paper


def test_scores_by_format():
    table = paper.qlora.scores_by_format().set_index("format")
    assert table.loc["nf4_double", "Table 2: perplexity"] == 27.41
    assert table.loc["nf4_double", "Table 4: MMLU, mean"] == 53.1
    # Table 3 has no number for RoBERTa-large in NF4.
    assert math.isnan(table.loc["nf4_double", "Table 3: GLUE, RoBERTa-large"])
    assert table.loc["fp4", "Table 2: perplexity"] == 31.07
    assert math.isnan(table.loc["bf16", "Table 2: perplexity"])
    assert table.loc["bf16", "Table 4: MMLU, mean"] == 53.0


def test_figure_6_is_in_mb():
    sizes = paper.qlora.figure6()
    assert sizes["LLaMA 7B", "optimizer"] == 1152
    assert sizes["LLaMA 7B", "total"] == 6900


def test_hyperparameters():
    assert paper.qlora.hyperparameters()["lora_r"] == 64
    assert paper.qlora.table9().query("dataset == 'OASST1'").lr.max() == 2e-4


def test_nf4_ascends():
    values = paper.qlora.nf4_values()
    assert len(values) == 16
    assert values == sorted(values)
