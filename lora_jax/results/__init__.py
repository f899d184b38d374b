"""Rows of finished runs, and what is drawn from them."""

from lora_jax.results.report import frame, markdown, png, render, summary, write
from lora_jax.results.rows import claim, key, pending, read, record

__all__ = [
    "claim",
    "frame",
    "key",
    "markdown",
    "pending",
    "png",
    "read",
    "record",
    "render",
    "summary",
    "write",
]
