"""What the papers published."""

from lora_jax.paper.tables import (
    FOLDER,
    TABLES,
    claims,
    table,
    validate,
)

__all__ = [
    "FOLDER",
    "TABLES",
    "claims",
    "table",
    "validate",
]
