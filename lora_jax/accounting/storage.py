"""The data types that QLoRA compares, as ways to store a base: what each does to the matrices, and what the paper says of it."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from safetensors.numpy import save

from lora_jax import paper, quant, tree
from lora_jax.nn import precision


class Type(NamedTuple):
    """A data type of the base: how it is quantised, what products are taken in, and the names the paper's tables give it."""

    quantize: str
    compute: str
    table2: str = ""
    table3: str = ""
    table4: str = ""

    @property
    def dtype(self) -> str:
        """What products are taken in on this machine."""
        return precision.fast_dtype() if self.compute == "auto" else self.compute


TYPES = {
    "fp32": Type("none", "float32"),
    "bf16": Type("none", "bfloat16", table3="LoRA BF16", table4="BFloat16"),
    "int8": Type("int8", "auto", table3="QLORA Int8"),
    "int4": Type("int4", "auto", table2="Int4"),
    "fp4": Type(
        "fp4", "auto", table2="Float4 (E2M1)", table3="QLORA FP4", table4="Float4"
    ),
    "nf4": Type("nf4", "auto"),
    "nf4-double": Type(
        "nf4_double",
        "auto",
        table2="NFloat4 + DQ",
        table3="QLORA NF4 + DQ",
        table4="NFloat4 + DQ",
    ),
}


def stored(model: Any, name: str, block: int | None = None) -> Any:
    """The model with the matrices of its blocks in a data type."""
    how = TYPES[name].quantize
    if how == "none":
        return precision.cast_kernels(model, TYPES[name].compute)
    return quant.quantize_model(model, quant.FORMATS[how]._replace(block=block))


def sizes(model: Any, name: str, block: int | None) -> dict[str, float]:
    """Error and size of the blocks' matrices in a data type; sizes of the whole model too, as a safetensors file and in memory."""
    whole = stored(model, name, block)
    kept, plain = tree.find(whole, quant.BODY), tree.find(model, quant.BODY)
    away = square = total = 0.0
    for path, w in plain.items():
        w = np.asarray(w, np.float32)
        other = (
            kept[path].dequantize() if quant.is_quantized(kept[path]) else kept[path]
        )
        distance = np.asarray(other, np.float32) - w
        away, square, total = (
            away + np.abs(distance).sum(),
            square + (distance**2).sum(),
            total + (w**2).sum(),
        )
    count = sum(w.size for w in plain.values())
    flat = jax.tree_util.tree_flatten_with_path(whole)[0]
    file = save({tree.path_name(keys): np.asarray(leaf) for keys, leaf in flat})
    return {
        "error/relative": float((square / total) ** 0.5),
        "error/mean_absolute": float(away / count),
        "size/bits": 8 * sum(leaf.nbytes for leaf in kept.values()) / count,
        "size/disk": float(len(file)),
        "size/memory": float(sum(leaf.nbytes for _, leaf in flat)),
    }


def published() -> pd.DataFrame:
    """The paper's own values by our data types: perplexity without training, GLUE and MMLU after it."""
    at2 = paper.table("qlora_table2_datatype_ppl").set_index("data_type").value
    at3 = (
        paper.table("qlora_table3_glue_sni")
        .query("model == 'RoBERTa-large'")
        .set_index("method")
        .value
    )
    at4 = (
        paper.table("qlora_table4_mmlu_datatypes")
        .query("dataset == 'Mean'")
        .set_index("data_type")
        .value
    )
    return pd.DataFrame(
        [
            {
                "type": name,
                "Table 2: perplexity": at2.get(how.table2),
                "Table 3: GLUE, RoBERTa-large": at3.get(how.table3),
                "Table 4: MMLU, mean": at4.get(how.table4),
            }
            for name, how in TYPES.items()
            if how.table2 or how.table3 or how.table4
        ]
    )
