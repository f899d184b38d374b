"""What a Hugging Face config.json has to say of a model."""

import math
from typing import Any

KINDS = {  # by our names; everything else is a size
    "activation": ("a word", lambda value: isinstance(value, str)),
    "epsilon": (
        "a number above 0",
        lambda value: type(value) in (int, float) and 0 < value < math.inf,
    ),
    "pad": ("a token id", lambda value: type(value) is int and value >= 0),
}
SIZE = ("a whole number above 0", lambda value: type(value) is int and value > 0)


def fields(config: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The values of a parsed config.json by our names; `names` says what it calls them.

    Raises:
        ValueError: some are missing, or of another kind; all of them are named.
    """
    if absent := [name for name in names.values() if name not in config]:
        raise ValueError(
            f"config.json: expected the fields {', '.join(names.values())}; missing: {', '.join(absent)}"
        )
    kinds = {name: KINDS.get(ours, SIZE) for ours, name in names.items()}
    wrong = [
        f"{name} is {config[name]!r}, expected {said}"
        for name, (said, fits) in kinds.items()
        if not fits(config[name])
    ]
    if wrong:
        raise ValueError(f"config.json: {'; '.join(wrong)}")
    return {ours: config[name] for ours, name in names.items()}
