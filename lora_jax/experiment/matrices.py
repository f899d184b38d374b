"""The matrices that a run adapts, known before it is trained."""

from typing import Any, Literal

from lora_jax import analysis
from lora_jax.experiment.config import RunConfig
from lora_jax.experiment.workbench import Workbenches


def stacked_matrices(
    run: RunConfig, benches: Workbenches, side: Literal["input", "output"] | None = None
) -> list[str]:
    """Return the paths of the layers with low-rank adapters that every block has.

    With `side`, their directions on that side must lie in spaces of one width.

    Raises:
        ValueError: the method has no low-rank factors, adapts layers outside the
            blocks, too, or their widths differ.
    """
    model, _ = benches.bench(run).adapted()
    layers = analysis.low_rank_layers(model)
    if not layers:
        raise ValueError(
            f"method: expected low-rank adapters, as lora's, got {run.method}"
        )
    # A layer of a stack of blocks has factors [L, d, r], another has no layer axis.
    # Only the former have the layers that a table has lines for.
    outside = []
    for path, layer in layers.items():
        if layer.factors()[0].ndim != 3:
            outside.append(path)
    if outside:
        raise ValueError(
            "targets: expected matrices that every block has, got also "
            f"{', '.join(outside)}"
        )
    if side:
        _check_widths(layers, side)
    return list(layers)


def _check_widths(layers: dict[str, Any], side: Literal["input", "output"]) -> None:
    # Directions of different spaces have no angle between them.
    widths = {}
    for path, layer in layers.items():
        widths[path] = analysis.factor_columns(layer, side).shape[-2]
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"expected low-rank adapters of one width on the {side} side, got {widths}"
        )
