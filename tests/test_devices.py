"""A batch on several devices: the same training as on one."""

import os

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from lora_jax import devices, methods, train
from lora_jax.train import classification


@pytest.mark.parametrize("rows, count", [(1, 1), (2, 2), (5, 1), (8, 2)])
def test_as_many_devices_as_share_the_rows_evenly(rows, count):
    assert jax.device_count() == 2, "tests/conftest.py makes two"
    assert devices.mesh(rows).size == count


@pytest.mark.parametrize("limit", ["no file", "max", "4096", "9" * 30])
def test_cores_have_equal_parts_of_the_machines_or_the_containers_memory(
    limit, tmp_path, monkeypatch
):
    path = tmp_path / "memory.max"
    if limit != "no file":
        path.write_text(f"{limit}\n")
    monkeypatch.setattr(devices, "CONTAINER_LIMIT", path)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if limit == "4096":
        memory = 4096
    assert devices.memory_bytes() == memory // 2


def test_each_device_has_its_rows(batch):
    mesh = devices.mesh(8)
    sharded = devices.shard_rows(batch, mesh)
    first, second = sharded.tokens.addressable_shards
    assert first.data.shape == (4, 16)
    assert second.data.shape == (4, 16)
    tokens = np.concatenate([first.data, second.data])
    np.testing.assert_array_equal(tokens, batch.tokens)


def test_rows_are_spread_where_a_mesh_is_set():
    x = np.ones((4, 3), np.float32)
    # Without one x is what it was.
    assert devices.spread_rows(x) is x
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        spread = jax.jit(devices.spread_rows)(x)
    assert [shard.data.shape for shard in spread.addressable_shards] == [(2, 3)] * 2


def test_each_device_has_the_model():
    model = {"kernel": np.ones((3, 2))}
    replicated = devices.replicate(model, devices.mesh(8))
    kernel = replicated["kernel"]
    for shard in kernel.addressable_shards:
        assert shard.data.shape == (3, 2)
    single = devices.to_first_device(kernel)
    assert single.devices() == {jax.devices()[0]}


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

    on_two = fit()
    one_device = devices.mesh(1)
    monkeypatch.setattr(devices, "mesh", lambda rows: one_device)
    on_one = fit()

    # Sums over rows are taken in another order.
    np.testing.assert_allclose(on_two.losses, on_one.losses, rtol=1e-4)
    leaves = jax.tree.leaves(on_two.model)
    expected_leaves = jax.tree.leaves(on_one.model)
    for leaf, expected in zip(leaves, expected_leaves, strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-2, atol=1e-4)
