"""Whether a step fits: refused by an estimate, and compiled for a dry run."""

from typing import Any

import jax
import pytest

from lora_jax import devices
from lora_jax.experiment import fitting, presets
from lora_jax.experiment.check import resolved
from lora_jax.experiment.config import RunConfig
from lora_jax.experiment.workbench import Workbenches

# 16 rows of 16 tokens, of a model of two layers.
SMOKE = presets.SMOKE


@pytest.fixture(scope="module")
def benches() -> Workbenches:
    return Workbenches()


def step_of(benches: Workbenches, run: RunConfig) -> Any:
    (complete,) = resolved([run], benches)
    return fitting.step_of(benches.bench(complete))


def test_of_a_spread_model_a_device_has_its_part(benches):
    # Two devices: half of each matrix, and all of the norms and of what is not divided.
    step = step_of(benches, SMOKE)
    spread = step_of(benches, SMOKE.changed(mesh="model=2"))
    share = devices.nbytes(spread.frozen) / devices.nbytes(step.frozen)
    assert 0.5 < share < 0.6
    # The batch is the same on both.
    assert spread.rows == step.rows * 2
    line = fitting.compiled_line([spread.run], benches)
    assert line.startswith("the largest step takes ")


class TestCheck:
    def message(self, step: Any, memory: int) -> str:
        with pytest.raises(ValueError) as caught:
            fitting.check_fits(step, memory)
        return str(caught.value)

    def test_a_step_that_fits(self, benches):
        step = step_of(benches, SMOKE)
        fitting.check_fits(step, 10**9)
        fitting.check_fits(step, None)

    def test_what_would_fit_is_named(self, benches):
        step = step_of(benches, SMOKE)
        # A quarter of the rows at a time would fit.
        memory = fitting.estimate(step, fitting.Change(4, "block", "none"))
        text = self.message(step, memory)
        assert text.startswith(
            "model: a training step of tiny with lora on 16 rows of 16 tokens takes about "
        )
        assert text.endswith(
            "; these would: --accumulate 4; --accumulate 4 --quantize nf4"
        )

    def test_a_setting_of_remat_is_named_where_it_keeps_too_much(
        self, benches, monkeypatch
    ):
        # As of a deep model: a tiny one's one block takes as much when computed anew.
        sizes = {"none": 2000, "block": 1000}
        monkeypatch.setattr(
            fitting.remat, "estimate", lambda config, *_, **__: sizes[config.remat]
        )
        step = step_of(benches, SMOKE.changed(remat="none"))
        memory = fitting.estimate(step, fitting.Change(1, "block", "none"))
        text = self.message(step, memory)
        assert text.endswith("these would: --remat block; --remat block --quantize nf4")

    def test_nothing_would(self, benches):
        step = step_of(benches, SMOKE.changed(method="full"))
        text = self.message(step, 1000)
        assert text.endswith("no setting of batch, remat or quantize would")

    def test_without_a_training_there_is_no_step(self, benches):
        assert step_of(benches, SMOKE.changed(method="none")) is None

    def test_a_device_has_its_rows_of_the_batch(self, benches):
        step = step_of(benches, SMOKE)
        assert jax.device_count() == 2, "tests/conftest.py makes two"
        assert step.rows == 8
        assert step_of(benches, SMOKE.changed(accumulate=16)).rows == 16


class TestCompiled:
    def line(self, benches: Workbenches, *runs: RunConfig) -> str:
        return fitting.compiled_line(resolved(runs, benches), benches)

    def test_the_largest_step(self, benches, monkeypatch):
        monkeypatch.setattr(devices, "memory_bytes", lambda: 2 * 10**9)
        larger = SMOKE.changed(batch=64)
        line = self.line(benches, larger)
        assert line == self.line(benches, SMOKE, larger)
        assert line != self.line(benches, SMOKE)
        assert line.startswith("the largest step takes ")
        assert line.endswith(" of a device's 2.0 GB, as compiled")

    def test_nothing_is_trained(self, benches):
        assert self.line(benches, SMOKE.changed(method="none")) == ""
