"""Names of metrics: whether they are known, and which direction of one is better."""

import difflib
from collections.abc import Collection

# Of all other metrics a larger value is better.
LOWER_IS_BETTER = frozenset({"loss", "perplexity", "ter"})


def higher_is_better(metric: str) -> bool:
    """Return whether a larger value of the metric, such as "accuracy", is better."""
    return metric not in LOWER_IS_BETTER


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
