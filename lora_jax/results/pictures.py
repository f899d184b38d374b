"""One picture for each group of rows, so that no group is dropped without a word."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from matplotlib.figure import Figure

from lora_jax.results.grouping import Named

MAX_GROUPS = 6  # that a page has pictures of: more are for its tables

Item = TypeVar("Item")


def of_groups(
    groups: Sequence[Named],
    items: Sequence[Item],
    draw: Callable[[Item], Figure | Mapping[str, Figure] | None],
) -> dict[str, Any]:
    """Return the fields of a report on pictures: figures, captions and undrawn.

    `items` has what is drawn of each group. A drawing may be several figures by suffix,
    or none where there is nothing to draw. From the second group on, suffixes have its
    number; the groups without a picture are named.
    """
    figures: dict[str, Figure] = {}
    captions = {}
    undrawn = []
    for number, (group, item) in enumerate(zip(groups, items, strict=True), start=1):
        drawn = draw(item) if number <= MAX_GROUPS else None
        by_suffix = drawn if isinstance(drawn, Mapping) else {"": drawn}
        has_picture = False
        for suffix, figure in by_suffix.items():
            if figure is None:
                continue
            has_picture = True
            numbered = suffix if number == 1 else f"{suffix}_{number}".strip("_")
            figures[numbered] = figure
            captions[numbered] = group.name
        if not has_picture:
            undrawn.append(group.name)
    return {"figures": figures, "captions": captions, "undrawn": undrawn}
