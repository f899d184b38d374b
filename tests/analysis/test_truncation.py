"""Truncation of ΔW, against numpy in float64 and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from lora_jax import methods, tree
from lora_jax.analysis import (
    full_rank,
    kept_directions,
    take_deltas,
    truncate,
    truncation_loss,
)
from lora_jax.analysis.truncation import BLOCKS
from lora_jax.methods.lora_from_delta import lora_from_delta


def move_leaves(model):
    """Move every leaf of a model a little, except the scales of adapters."""
    rng = np.random.default_rng(0)
    moved = {}
    for path, leaf in tree.leaves(model).items():
        if not path.endswith("/scale"):
            moved[path] = leaf + jnp.float32(0.1 * rng.normal(size=leaf.shape))
    return tree.replace(model, moved)


@pytest.fixture(scope="module")
def tuned(tiny):
    """A model that was trained in full."""
    return move_leaves(tiny())


@pytest.fixture(scope="module")
def lora(tiny):
    """A trained LoRA: B is not zero. The adapters of key and output are idle."""
    method = methods.lora(
        "query,value", 3, rank_multiple=8, idle_targets="query,key,value,output"
    )
    return move_leaves(method.adapt(jax.random.key(0), tiny()))


def best_approximation(old, new, k):
    """Numpy's best approximation of rank k of each layer's difference."""
    difference = np.asarray(new, np.float64) - old
    u, s, vt = np.linalg.svd(difference, full_matrices=False)
    return (u[..., :k] * s[..., None, :k]) @ vt[..., :k, :]


def assert_same_leaves(model, reference, atol):
    leaves = tree.leaves(model)
    for path, expected in tree.leaves(reference).items():
        assert_allclose(leaves[path], expected, atol=atol, err_msg=path)


class TestKeptDirections:
    def test_they_are_in_order_each_once_and_end_with_all(self):
        assert kept_directions((4, 0, 1, 64, 1), rank=8) == [0, 1, 4, 8]
        assert kept_directions((), rank=8) == [8]

    def test_a_negative_number_is_refused(self):
        message = "ks: expected whole numbers >= 0, got -1, -2"
        with pytest.raises(ValueError, match=message):
            kept_directions((-1, 0, -2), rank=8)

    def test_full_fine_tuning_has_as_many_as_the_smaller_side(self, tiny):
        # Attention is [16, 16], the MLP [16, 32] and [32, 16].
        assert full_rank(tiny()) == 16


class TestTruncate:
    @pytest.mark.parametrize("k", [0, 1, 5, 16])
    def test_full_fine_tuning_keeps_the_top_directions_and_all_else(
        self, tiny, tuned, k
    ):
        old, new = tree.leaves(tiny()), tree.leaves(tuned)
        truncated = truncate(take_deltas(tuned, tiny()), k)
        merged = tree.leaves(methods.merge(truncated))
        matrices = []
        for path in old:
            if path.startswith("blocks/") and path.endswith("kernel"):
                matrices.append(path)
        assert len(matrices) == 6
        for path in old:
            expected = new[path]
            if path in matrices:
                expected = old[path] + best_approximation(old[path], new[path], k)
            assert_allclose(merged[path], expected, atol=1e-5, err_msg=path)

    def test_full_fine_tuning_gives_the_adapter_that_is_extracted(self, tiny, tuned):
        extracted = lora_from_delta(
            tiny(), tuned, targets=BLOCKS, rank=3, others="tuned"
        )
        truncated = truncate(take_deltas(tuned, tiny()), 3)
        assert_same_leaves(
            methods.merge(truncated), methods.merge(extracted), atol=1e-6
        )

    def test_of_a_lora_only_its_trained_matrices_are_truncated(self, tiny, lora):
        trained = take_deltas(lora, tiny())
        assert set(trained.deltas) == {
            "blocks/attention/query",
            "blocks/attention/value",
        }
        for delta in trained.deltas.values():
            # Rank 3: the padding to 8 is left out.
            assert delta.s.shape == (2, 3)
        all_directions = truncate(trained, 3)
        assert_same_leaves(
            methods.merge(all_directions), methods.merge(lora), atol=1e-5
        )
        no_direction = truncate(trained, 0)
        assert_same_leaves(methods.merge(no_direction), methods.unload(lora), atol=0)


class TestLoss:
    # Two matrices of one layer, with norms 5 and 12: 13 together.
    SPECTRA = (np.array([[4.0, 3.0]]), np.array([[12.0, 0.0, 0.0]]))

    def losses(self, name):
        return [truncation_loss(self.SPECTRA, k)[name] for k in range(4)]

    def test_error_by_hand(self):
        errors = self.losses("delta/relative_error")
        assert errors == pytest.approx([1, 3 / 13, 0, 0])

    def test_energy_by_hand(self):
        energies = self.losses("delta/energy")
        assert energies == pytest.approx([0, (16 / 25 + 1) / 2, 1, 1])

    def test_effective_rank_by_hand(self):
        shares = np.array([4, 3]) / 7
        first = np.exp(-(shares * np.log(shares)).sum())
        rank = truncation_loss(self.SPECTRA, 1)["delta/effective_rank"]
        assert rank == pytest.approx((first + 1) / 2, rel=1e-6)

    def test_an_update_of_zero_is_refused(self):
        with pytest.raises(ValueError, match="ΔW is zero: is the learning rate too"):
            truncation_loss([np.zeros((1, 2))], 1)
