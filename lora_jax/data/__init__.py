"""Data: tasks by name or from a user's files, their tokens, and padded batches.

`load` gives a `Task` of splits of `Examples`; `encode` and `encode_pairs` turn a split
into token ids; `batches` cuts these into padded batches of like length.
"""

from lora_jax.data.batches import Batch, batches, widths
from lora_jax.data.load import (
    DATA_DIR_TASKS,
    GENERATION_TASKS,
    GLUE_TASKS,
    LABELED_TASKS,
    TASKS,
    TEXT_SUFFIX,
    base_name,
    check_name,
    load,
)
from lora_jax.data.packing import pack
from lora_jax.data.task import (
    Examples,
    Task,
    references,
    subset,
    subset_of_sources,
)
from lora_jax.data.tokenize import (
    SEPARATOR,
    Encoded,
    encode,
    encode_pairs,
    encode_prompts,
)

__all__ = [
    "DATA_DIR_TASKS",
    "GENERATION_TASKS",
    "GLUE_TASKS",
    "LABELED_TASKS",
    "SEPARATOR",
    "TASKS",
    "TEXT_SUFFIX",
    "Batch",
    "Encoded",
    "Examples",
    "Task",
    "base_name",
    "batches",
    "check_name",
    "encode",
    "encode_pairs",
    "encode_prompts",
    "load",
    "pack",
    "references",
    "subset",
    "subset_of_sources",
    "widths",
]
