"""A batch on several devices: the same training as on one."""

import jax
import numpy as np
import pytest

from lora_jax import devices, methods, train
from lora_jax.train import classification


def test_as_many_devices_as_share_the_rows_evenly():
    assert jax.device_count() == 2, "tests/conftest.py makes two"
    assert [devices.mesh(rows).size for rows in (1, 2, 5, 8)] == [1, 2, 1, 2]


def test_each_device_has_its_rows_and_the_whole_model(batch):
    mesh = devices.mesh(8)
    parts = devices.shard_rows(batch, mesh).tokens.addressable_shards
    assert [part.data.shape for part in parts] == [(4, 16), (4, 16)]
    np.testing.assert_array_equal(
        np.concatenate([part.data for part in parts]), batch.tokens
    )
    kernel = devices.replicate({"kernel": np.ones((3, 2))}, mesh)["kernel"]
    assert [part.data.shape for part in kernel.addressable_shards] == [(3, 2), (3, 2)]
    assert devices.to_first_device(kernel).devices() == {jax.devices()[0]}


@pytest.mark.parametrize(("accumulate", "rate"), [(1, 0.0), (4, 0.3)])
def test_a_training_on_two_devices_is_that_on_one(
    accumulate, rate, tiny, examples, monkeypatch
):
    method = methods.lora(rank=2, dropout=rate)
    model = method.adapt(jax.random.key(0), tiny())
    config = train.TrainConfig(
        learning_rate=0.02,
        epochs=1,
        batch=8,
        accumulate=accumulate,
        hidden_dropout=rate,
    )

    def fit():
        return train.fit(
            model,
            methods.mask(model, method),
            train.Objective(classification.loss, examples, (16,), pad=1),
            config,
            seed=0,
        )

    two, one_device = fit(), devices.mesh(1)
    monkeypatch.setattr(devices, "mesh", lambda rows: one_device)
    one = fit()
    np.testing.assert_allclose(two.losses, one.losses, rtol=1e-4)
    for ours, theirs in zip(
        jax.tree.leaves(two.model), jax.tree.leaves(one.model), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-4)
