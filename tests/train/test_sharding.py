"""How a model is cut over a mesh, and that a step on many devices is that on one."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lora_jax import methods, models, quant, train, tree
from lora_jax.accounting.step_time import random_batch
from lora_jax.train import language_modeling, sharding
from lora_jax.train.sharding import MeshShape


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("data=4,model=2", (4, 2)),
        ("model=2, data=4", (4, 2)),
        ("data=3", (3, 1)),
        ("model=3", (1, 3)),
    ],
)
def test_a_mesh_is_read(text, shape):
    assert sharding.parse_mesh(text) == shape
    assert sharding.parse_mesh(str(MeshShape(*shape))) == shape


@pytest.mark.parametrize("text", ["", "rows=2", "data=0", "data=x", "data=1,data=2"])
def test_what_is_no_mesh_is_refused(text):
    with pytest.raises(ValueError, match="mesh: expected a number of devices for data"):
        sharding.parse_mesh(text)


def test_a_mesh_has_all_devices():
    with pytest.raises(ValueError, match="mesh: expected 2 devices in all"):
        sharding.make_mesh(jax.devices(), MeshShape(2, 2))
    mesh = sharding.make_mesh(jax.devices(), MeshShape(1, 2))
    assert dict(mesh.shape) == {"data": 1, "model": 2}


# Of a mesh only the sizes of its axes count here.
MESH = jax.sharding.AbstractMesh((4, 2), ("data", "model"))


def specs(leaves, *, shard_base):
    cuts = sharding.shardings(leaves, MESH, shard_base=shard_base)
    pairs = jax.tree_util.tree_leaves_with_path(cuts)
    by_path = {}
    for keys, cut in pairs:
        # Sides that are not cut are written in two ways.
        is_cut = any(side is not None for side in cut.spec)
        by_path[tree.path_name(keys)] = cut.spec if is_cut else P()
    return by_path


def arrays(**shapes):
    result = {}
    for name, shape in shapes.items():
        result[name] = jax.ShapeDtypeStruct(shape, "float32")
    return result


LAYER = {
    "query": arrays(kernel=(3, 8, 16), bias=(3, 16)),
    "output": {
        "base": arrays(kernel=(3, 16, 8), bias=(3, 8)),
        **arrays(lora_a=(3, 16, 2), lora_b=(3, 2, 8), scale=(3, 2)),
    },
    "up": {**arrays(lora_a=(3, 8, 2), lora_b=(3, 2, 16))},
    "norm": arrays(scale=(3, 8), bias=(3, 8)),
}


def test_matrices_are_cut_over_both_axes_and_adapters_follow_them():
    assert specs({"blocks": LAYER}, shard_base=True) == {
        "blocks/query/kernel": P(None, "data", "model"),
        "blocks/query/bias": P(None, "model"),
        "blocks/output/base/kernel": P(None, "model", "data"),
        # The sum over `model` has it once.
        "blocks/output/base/bias": P(),
        "blocks/output/lora_a": P(None, "model", None),
        "blocks/output/lora_b": P(),
        "blocks/output/scale": P(),
        "blocks/up/lora_a": P(),
        "blocks/up/lora_b": P(None, None, "model"),
        "blocks/norm/scale": P(),
        "blocks/norm/bias": P(),
    }


def test_without_shard_base_matrices_are_cut_over_model_alone():
    cuts = specs({"blocks": LAYER}, shard_base=False)
    assert cuts["blocks/query/kernel"] == P(None, None, "model")
    assert cuts["blocks/output/base/kernel"] == P(None, "model", None)


def test_an_axis_that_does_not_divide_its_side_goes_to_the_other():
    # 7 is a multiple neither of 2 nor of 4, and 6 not of 4.
    leaves = {
        "lm_head": arrays(kernel=(8, 7)),
        "small": arrays(kernel=(6, 7)),
        "odd": arrays(kernel=(5, 7)),
    }
    cuts = specs(leaves, shard_base=True)
    assert cuts["lm_head/kernel"] == P(("data", "model"), None)
    assert cuts["small/kernel"] == P("model", None)
    assert cuts["odd/kernel"] == P()


def test_a_quantized_matrix_is_cut_by_whole_blocks():
    def quantized(rows):
        w = jax.ShapeDtypeStruct((3, rows, 64), "float32")
        return jax.eval_shape(lambda w: quant.quantize(w, "nf4", double=True), w)

    # Twice 1,024 blocks of 64, for 8 devices; their scales' scales are 8.
    cuts = sharding.shardings(quantized(2048), MESH, shard_base=True)
    axes = P(None, ("data", "model"))
    assert cuts.codes.spec == cuts.scales.codes.spec == cuts.scales.scales.spec == axes
    assert cuts.scales.offset.spec == P()
    # Halves of 12 blocks are no multiple of 8 blocks.
    cuts = sharding.shardings(quantized(24), MESH, shard_base=True)
    assert cuts.codes.spec == P()


FORMATS = (None, "nf4_double")


def losses_on(mesh_text, quantize):
    """The losses of two steps, the base cut over all devices of the mesh."""
    method = methods.lora("query,output,up,down", 2)
    model, _ = models.load("tiny-llama", quantize=quantize)
    adapted = method.adapt(jax.random.key(0), model)
    trainable, frozen = tree.split(adapted, methods.mask(adapted, method))
    config = train.StepConfig(remat="block", clip=1.0)
    state = train.optimizer(config).init(trainable)
    batch = random_batch(8, 16, 257)
    # All tokens are the target's.
    batch = batch._replace(segments=np.ones_like(batch.segments))
    shape = sharding.parse_mesh(mesh_text)
    mesh = sharding.make_mesh(jax.devices()[: shape.devices], shape)
    parts = (trainable, state, frozen)
    cuts = sharding.shardings(parts, mesh, shard_base=True)
    trainable, state, frozen = jax.device_put(parts, cuts)
    batch = jax.device_put(batch, sharding.row_sharding(mesh))
    losses = []
    for _ in range(2):
        with jax.set_mesh(mesh):
            trainable, state, loss = train.train_step(
                trainable,
                state,
                frozen,
                batch,
                np.float32(0.01),
                jax.random.key(1),
                loss=language_modeling.loss,
                config=config,
            )
        losses.append(float(loss))
    return losses


SCRIPT = """
from tests.train.test_sharding import FORMATS, losses_on

for quantize in FORMATS:
    print(*losses_on("data=4,model=2", quantize))
"""


def test_a_step_on_eight_devices_is_that_on_one():
    # In a process of its own: this one has made its devices.
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    for quantize, line in zip(FORMATS, lines, strict=True):
        losses = [float(number) for number in line.split()]
        single = losses_on("data=1", quantize)
        np.testing.assert_allclose(losses, single, rtol=2e-5)
        # It learns something.
        assert losses[-1] < losses[0]
