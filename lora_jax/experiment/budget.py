"""Which ranks a budget of trainable parameters pays for."""

from collections.abc import Sequence

from lora_jax.accounting import affordable_rank
from lora_jax.experiment.check import resolved
from lora_jax.experiment.config import RunConfig
from lora_jax.experiment.workbench import Workbenches

PAPER_RANK = 8  # LoRA's Table 5: what r = 8 on one attention matrix costs
PAPER_TARGETS = "query"


def ranks_within(
    budget: int, base: RunConfig, targets: Sequence[str], benches: Workbenches
) -> tuple[int, dict[str, int]]:
    """Return the budget and, for each set of matrices, the highest rank within it.

    A budget of 0 is the paper's.

    Raises:
        ValueError: the budget does not pay for r = 1 of a set, or is more than its
            matrices can hold; or the method has no rank.
    """
    (run,) = resolved([base], benches)
    # A cost is linear in the rank, so two ranks tell all.
    at_one = _costs(run, targets, 1, benches)
    at_two = _costs(run, targets, 2, benches)
    if any(at_two[name] <= cost for name, cost in at_one.items()):
        raise ValueError(
            f"method: expected one with a rank to choose, as lora, got {run.method}"
        )
    if not budget:
        budget = _costs(run, [PAPER_TARGETS], PAPER_RANK, benches)[PAPER_TARGETS]
    _check_affordable(budget, at_one)
    ranks = {}
    for name, cost in at_one.items():
        ranks[name] = affordable_rank(budget, cost, at_two[name])
    # Adapting the model finds ranks that are larger than a matrix.
    try:
        for name, rank in ranks.items():
            _costs(run, [name], rank, benches)
    except ValueError as error:
        raise ValueError(
            f"budget: {budget:,} is more than the matrices can hold ({error})"
        ) from None
    return budget, ranks


def _check_affordable(budget: int, at_one: dict[str, int]) -> None:
    """Raise a ValueError with every set of matrices that r = 1 is too dear for."""
    too_dear = []
    for name, cost in at_one.items():
        if cost > budget:
            too_dear.append(f"{cost:,} for {name}")
    if too_dear:
        raise ValueError(
            f"budget: expected at least what r = 1 costs ({', '.join(too_dear)}), "
            f"got {budget:,}"
        )


def _costs(
    run: RunConfig, targets: Sequence[str], rank: int, benches: Workbenches
) -> dict[str, int]:
    """The adapter's trainable parameters by set of matrices."""
    # Counted on the adapted model: a pattern may match any number of matrices.
    costs = {}
    for name in targets:
        bench = benches.bench(run.changed(targets=name, rank=rank))
        costs[name] = bench.counts().adapter
    return costs
