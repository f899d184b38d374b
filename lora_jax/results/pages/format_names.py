"""How rows spell the formats of a base: `nf4-double` for our `nf4_double`.

The first rows were written so, and a row keeps its settings for good. Two experiments
have such rows, and translate the names on their way in and out.
"""

from collections.abc import Iterable, Sequence

from lora_jax.results.rows import Row

IN_CODE = "_"
IN_ROWS = "-"


def row_name(name: str) -> str:
    """Return a format's name as rows have it."""
    # Both ways are safe: no format's name has the other character.
    return name.replace(IN_CODE, IN_ROWS)


def format_name(name: str) -> str:
    """Return a format's name from the one that a row has."""
    return name.replace(IN_ROWS, IN_CODE)


def check(rows: Iterable[Row], formats: Sequence[str]) -> None:
    """Check that the rows have no other formats than these.

    Raises:
        ValueError: names the formats that no table would have a line of.
    """
    unknown = {row["config"]["type"] for row in rows} - set(map(row_name, formats))
    if unknown:
        listed = ", ".join(map(row_name, formats))
        raise ValueError(
            f"config.type: expected one of {listed}, got {', '.join(sorted(unknown))}"
        )
