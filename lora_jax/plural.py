"""Counts in sentences: `1 row`, `2 rows`, `2,048 rows`."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, in the plural unless it is 1.

    The plural has an s at its end unless another one is passed.
    """
    word = noun if count == 1 else plural or f"{noun}s"
    return f"{count:,} {word}"
