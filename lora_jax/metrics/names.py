"""Names of metrics: whether they are known."""

import difflib
from collections.abc import Collection


def check_names(names: Collection[str], known: Collection[str]) -> None:
    """Raise ValueError if there are other names than the known ones; names them."""
    unknown = []
    for name in names:
        if name not in known:
            unknown.append(name)
    if not unknown:
        return
    # One hint, where a name is close to a known one.
    hint = ""
    # The first is enough: the others are often misspelled alike.
    close = difflib.get_close_matches(unknown[0], known, n=1)
    if close:
        hint = f"; is {close[0]} meant?"
    raise ValueError(
        f"expected metrics out of {', '.join(known)}, got {', '.join(unknown)}{hint}"
    )
