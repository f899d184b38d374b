"""What the papers published, to stand beside our results.

`table` reads one checked CSV file of `paper_tables/` in the paper's own notation;
`lora` and `qlora` have a function a table, in the words of this library.
"""

from lora_jax.paper import lora, qlora
from lora_jax.paper.tables import (
    FOLDER,
    claims,
    schema,
    table,
    validate,
)

__all__ = [
    "FOLDER",
    "claims",
    "lora",
    "qlora",
    "schema",
    "table",
    "validate",
]
