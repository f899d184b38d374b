"""What the tests of experiments share: the workbenches of the tiny models."""

import pytest

from lora_jax.experiment import Workbenches


@pytest.fixture(scope="session")
def benches() -> Workbenches:
    """Workbenches for all tests, so that each tiny model is loaded once."""
    return Workbenches()
