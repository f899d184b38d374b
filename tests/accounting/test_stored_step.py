"""The cost of a step on a base in several formats, without a clock to depend on."""

import statistics

from lora_jax import methods
from lora_jax.accounting.storage import FORMATS
from lora_jax.accounting.stored_step import step_costs


def test_each_format_has_its_times_and_its_memory(tiny):
    storages = [FORMATS["fp32"], FORMATS["nf4_double"]]
    method = methods.lora("query", 2)
    costs = step_costs(tiny(), method, storages, batch=4, length=8, times=3)
    assert len(costs) == 2
    for cost in costs:
        # Warm-up is not among them.
        assert len(cost.seconds) == 3
        assert cost.metrics["step/seconds"] == statistics.median(cost.seconds)
        assert cost.metrics["step/peak"] > cost.metrics["step/temporary"] > 0
