"""What an adaptation costs: parameters, bytes and seconds.

Parameter counts are exported here. Bytes and seconds are in modules of their own:
`storage`, `optimizer_states`, `step_memory` (whose terms are in `lora_jax.train`) and
`compiled_step`, `encoder_step` by names, `llama_memory`, and `step_time` with `peft_step`, `stored_step`
and, by names, `named_step`. `fitted_step` has the bytes and the floor of a step on any of
`machines`, which need not be there; `compile_apart` compiles it in another process.
"""

from lora_jax.accounting.architectures import (
    ARCHITECTURES,
    Architecture,
    find_architecture,
)
from lora_jax.accounting.budget import Fit, affordable_rank, rank_for
from lora_jax.accounting.parameters import (
    Adapter,
    BitFit,
    Both,
    FineTune,
    LoRA,
    Method,
    Prefix,
    total_parameters,
    trainable_parameters,
    tree_parameters,
)
from lora_jax.accounting.table_notation import parse_method

__all__ = [
    "ARCHITECTURES",
    "Adapter",
    "Architecture",
    "BitFit",
    "Both",
    "FineTune",
    "Fit",
    "LoRA",
    "Method",
    "Prefix",
    "affordable_rank",
    "find_architecture",
    "parse_method",
    "rank_for",
    "total_parameters",
    "trainable_parameters",
    "tree_parameters",
]
