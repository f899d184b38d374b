"""The matrices that a run adapts, known before it is trained."""

from lora_jax import analysis
from lora_jax.experiment.config import RunConfig
from lora_jax.experiment.workbench import Workbenches


def stacked_matrices(run: RunConfig, benches: Workbenches) -> list[str]:
    """Return the paths of the layers with low-rank adapters that every block has.

    Raises:
        ValueError: the method has no low-rank factors, or adapts layers outside the
            blocks, too.
    """
    model, _ = benches.bench(run).adapted()
    layers = analysis.low_rank_layers(model)
    if not layers:
        raise ValueError(
            f"method: expected low-rank adapters, as lora's, got {run.method}"
        )
    # A layer of a stack of blocks has factors [L, d, r], another has no layer axis.
    outside = []
    for path, layer in layers.items():
        if layer.factors()[0].ndim != 3:
            outside.append(path)
    if outside:
        raise ValueError(
            "targets: expected matrices that every block has, got also "
            f"{', '.join(outside)}"
        )
    return list(layers)
