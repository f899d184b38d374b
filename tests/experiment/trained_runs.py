"""A run as training would leave it, without the training."""

import jax.numpy as jnp
import numpy as np

from lora_jax import methods, tree
from lora_jax.experiment import RunConfig, check
from lora_jax.experiment.identity import key
from lora_jax.experiment.run import Trained
from lora_jax.experiment.workbench import Workbenches


def with_random_b(config: RunConfig) -> Trained:
    """Return the run with a random B in each adapter that is not idle."""
    benches = Workbenches()
    (run,) = check.resolved([config], benches)
    bench = benches.bench(run)
    model, _ = bench.adapted()
    rng = np.random.default_rng(0)
    values = {}
    for path, layer in methods.adapters(model).items():
        if layer.parameters():
            b = jnp.float32(0.1 * rng.normal(size=layer.lora_b.shape))
            # What is beyond the rank is padding.
            values[f"{path}/lora_b"] = b.at[:, run.options["rank"] :].set(0)
    row = {"config": run.flat(), "key": key(run.flat())}
    return Trained(tree.replace(model, values), row, bench)
