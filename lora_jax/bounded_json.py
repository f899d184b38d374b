"""Reads JSON that somebody else wrote, with a bound on how deep it is nested.

Python's reader gives up on deep nesting with a RecursionError, and what it just takes
ends in one later, when the value is compared or printed. Every file that comes from
outside is read with `parse`, so that its reader has one exception to handle.
"""

import json
import re
from typing import Any

import numpy as np

# Configurations, tokenizers and rows need about ten.
MAX_DEPTH = 100
# A string with its escapes: brackets inside it do not nest. Without going back, and
# without its end where the text is torn, so that the time is linear in the length.
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def parse(content: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not UTF-8 or not JSON (a `json.JSONDecodeError`, which
            knows the position), or is nested deeper than `MAX_DEPTH`.
    """
    encoded = content
    if isinstance(encoded, str):
        encoded = encoded.encode(errors="surrogatepass")
    if _depth(encoded) > MAX_DEPTH:
        raise ValueError(f"brackets are nested more than {MAX_DEPTH} levels deep")
    return json.loads(content)


def _depth(content: bytes) -> int:
    """The deepest nesting of brackets, outside of strings."""
    # Few opening brackets cannot nest deeply, which is the usual line of a table.
    if content.count(b"[") + content.count(b"{") <= MAX_DEPTH:
        return 0
    text = np.frombuffer(STRING.sub(b"", content), np.uint8)
    # Both kinds count as one: where they do not match, the text is not JSON anyway.
    opening = (text == ord("[")) | (text == ord("{"))
    closing = (text == ord("]")) | (text == ord("}"))
    steps = opening.astype(np.int64) - closing
    return int(steps.cumsum().max(initial=0))
