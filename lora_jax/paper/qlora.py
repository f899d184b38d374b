"""What QLoRA published (Dettmers et al. 2023, arXiv:2305.14314v1), in our words.

Formats have the names of `lora_jax.quant`: `nf4_double` is the paper's "NF4 + DQ",
NormalFloat with doubly quantized scales; `bf16` is a base that is not quantized.
A format that a table lacks is absent from what its function returns.
"""

from typing import Any

import pandas as pd

from lora_jax.paper.tables import rows_where, table

# The paper spells a format differently in each of its tables.
_TABLE2_FORMATS = {
    "Int4": "int4",
    "Float4 (E2M1)": "fp4",
    "NFloat4 + DQ": "nf4_double",
}
_TABLE3_FORMATS = {
    "LoRA BF16": "bf16",
    "QLORA Int8": "int8",
    "QLORA FP4": "fp4",
    "QLORA NF4 + DQ": "nf4_double",
}
_TABLE4_FORMATS = {
    "BFloat16": "bf16",
    "Float4": "fp4",
    "NFloat4 + DQ": "nf4_double",
}
# NF4 without double quantization has no number in these tables.
FORMATS = ("bf16", "int8", "int4", "fp4", "nf4_double")
"""The formats the tables have values of, the largest first."""

MB = 2**20
"""Bytes of the paper's MB: its adapters are such to the digit (Figure 6)."""


def table2() -> pd.Series:
    """Return Table 2 by format: mean perplexity on Pile Common Crawl, not trained.

    The float with three exponent bits (E3M0), which we do not have, is left out.
    """
    return _by_format(table("qlora_table2_datatype_ppl"), "data_type", _TABLE2_FORMATS)


def table3() -> pd.Series:
    """Return Table 3 by format: GLUE accuracy of RoBERTa-large with LoRA, in %."""
    published = table("qlora_table3_glue_sni")
    # The other models of the table are T5, which we do not have.
    roberta = rows_where(published, "model", "RoBERTa-large")
    return _by_format(roberta, "method", _TABLE3_FORMATS)


def table4() -> pd.Series:
    """Return Table 4 by format: 5-shot MMLU in %, the mean over models and data."""
    published = table("qlora_table4_mmlu_datatypes")
    # The table prints this mean too, and each model and data set apart.
    means = rows_where(published, "dataset", "Mean")
    return _by_format(means, "data_type", _TABLE4_FORMATS)


def scores_by_format() -> pd.DataFrame:
    """Return Tables 2 to 4 side by side: format, and a column for each table.

    The value is missing (NaN) where a table does not have the format.
    """
    columns = {
        "Table 2: perplexity": table2(),
        "Table 3: GLUE, RoBERTa-large": table3(),
        "Table 4: MMLU, mean": table4(),
    }
    # Joined by format.
    joined = pd.DataFrame(columns).reindex(list(FORMATS))
    return joined.rename_axis("format").reset_index()


def table9() -> pd.DataFrame:
    """Return Table 9, hyperparameters by model and dataset.

    Columns: model, dataset, batch_size, lr, steps, source_len and target_len (tokens).
    """
    return table("qlora_table9_hparams")


def hyperparameters() -> dict[str, Any]:
    """Return QLoRA's general settings by the paper's name, those of T5 apart."""
    # From pages 5, 22 and 23; a value may be words.
    published = table("qlora_general_hparams")
    return dict(zip(published.hparam, published.value, strict=True))


def nf4_values() -> list[float]:
    """Return the 16 values of NF4 in ascending order, from -1 to 1 (appendix E)."""
    return table("qlora_nf4_values").value.tolist()


def figure6() -> dict[tuple[str, str], float]:
    """Return Figure 6: MB of 2^20 bytes by LLaMA model and part of the memory.

    The model is `LLaMA 7B` and so on. The part is model, adapters, weight gradient,
    optimizer, input gradient, or total: the label of the bar, a thousand for each GB.
    """
    # A row a part; the totals are labels, and need not be the sums of the parts.
    sizes = {}
    for line in table("qlora_fig6_memory_breakdown").to_dict("records"):
        # The parts are printed in MB, the labels of the bars in GB.
        factor = 1000 if line["unit"] == "GB" else 1
        model = line["model"]
        part = line["component"]
        sizes[model, part] = line["value"] * factor
    return sizes


def _by_format(
    published: pd.DataFrame, column: str, names: dict[str, str]
) -> pd.Series:
    """The values by our name of the format; lines of other formats are dropped."""
    # A name that is not ours becomes NaN.
    formats = published[column].map(names)
    known = published.assign(format=formats).dropna(subset="format")
    return known.set_index("format").value
