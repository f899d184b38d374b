"""Which rank a budget of trainable parameters pays for."""

from typing import NamedTuple

from lora_jax.accounting.architectures import Architecture, find_architecture
from lora_jax.accounting.parameters import LoRA, target_shapes


class Fit(NamedTuple):
    """The largest LoRA within a budget."""

    rank: int
    parameters: int  # of all layers
    left: int  # of the budget


def affordable_rank(budget: int, first: int, second: int) -> int:
    """Return the highest rank that has at most `budget` parameters.

    `first` and `second` are the parameters of r = 1 and of r = 2; every further rank
    has as many more. `budget` must be `first` or more.
    """
    # With biases, r = 1 can cost more than a further rank.
    further = second - first
    return 1 + (budget - first) // further


def rank_for(budget: int, architecture: Architecture | str, targets: str) -> Fit:
    """Return the largest LoRA on the targets that has at most `budget` parameters.

    Its rank is at most that of the matrices.

    Raises:
        ValueError: not even r = 1 fits, with its parameters; or no such architecture or
            target.
    """
    sizes = find_architecture(architecture)
    lora = LoRA(targets, rank=1)
    first = lora.count(sizes)
    if budget < first:
        raise ValueError(
            f"budget: expected at least {first:,} parameters, what r = 1 on {targets} "
            f"of {sizes.name} has; got {budget:,}"
        )
    # Beyond the rank of the matrices, ΔW is no richer.
    shapes = target_shapes(targets, sizes)
    full_rank = min(map(min, shapes))
    # A and B have no biases: every rank costs the same.
    rank = affordable_rank(budget, first, second=2 * first)
    rank = min(rank, full_rank)
    parameters = rank * first
    return Fit(
        rank=rank,
        parameters=parameters,
        left=budget - parameters,
    )
