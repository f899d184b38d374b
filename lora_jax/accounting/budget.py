"""Which rank a budget of trainable parameters pays for."""

from typing import NamedTuple

from lora_jax.accounting.architectures import Architecture, find_architecture
from lora_jax.accounting.parameters import LoRA, target_shapes


class Fit(NamedTuple):
    """The largest LoRA within a budget: its rank, its parameters, and what is left."""

    rank: int
    parameters: int
    left: int


def affordable_rank(budget: int, first: int, second: int) -> int:
    """Return the highest rank that has at most `budget` parameters.

    `first` and `second` are the parameters of r = 1 and of r = 2; every further rank
    has as many more. `budget` must be `first` or more.
    """
    return 1 + (budget - first) // (second - first)


def rank_for(budget: int, architecture: Architecture | str, targets: str) -> Fit:
    """Return the largest LoRA on the targets that has at most `budget` parameters.

    Its rank is at most that of the matrices.

    Raises:
        ValueError: not even r = 1 fits, with its parameters; or no such architecture or
            target.
    """
    sizes = find_architecture(architecture)
    first = LoRA(targets, 1).count(sizes)
    if budget < first:
        raise ValueError(
            f"budget: expected at least {first:,} parameters, what r = 1 on {targets} "
            f"of {sizes.name} has; got {budget:,}"
        )
    full_rank = min(map(min, target_shapes(targets, sizes)))
    rank = min(affordable_rank(budget, first, 2 * first), full_rank)
    return Fit(rank, parameters=rank * first, left=budget - rank * first)
