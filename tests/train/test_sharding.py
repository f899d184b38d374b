"""How a model is cut over a mesh, and that a step on many devices is that on one."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lora_jax import data, generation, methods, models, quant, train, tree
from lora_jax.train import language_modeling, sharding
from lora_jax.train.sharding import MeshShape


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("data=4,model=2", (4, 2, 1)),
        ("model=2, data=4", (4, 2, 1)),
        ("data=3", (3, 1, 1)),
        ("model=3", (1, 3, 1)),
        ("cells=8", (1, 1, 8)),
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
    assert dict(mesh.shape) == {"cells": 1, "data": 1, "model": 2}


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


FORMATS = ("none", "nf4_double")
# The validation rows are those that are trained on.
CONFIG = train.TrainConfig(learning_rate=0.01, epochs=2, batch=8, remat="block")
EVALUATION = {"size": 8, "widths": (16,), "pad": 0, "compute_dtype": "float32"}


def language_rows():
    """Sixteen rows of eight to fifteen tokens, all of which are targets."""
    rng = np.random.default_rng(0)
    lengths = np.tile(np.arange(8, 16), 2)
    tokens = rng.integers(3, 250, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    label = np.zeros(len(lengths))
    return data.Encoded(tokens, np.ones_like(tokens), offsets, label)


def trained(quantize="none", *, rank=2, **settings):
    """A training of a tiny Llama, and what it then writes; nothing where quantized."""
    method = methods.lora("query,output,up,down", rank)
    model, _ = models.load(
        "tiny-llama", quantize=None if quantize == "none" else quantize
    )
    adapted = method.adapt(jax.random.key(0), model)
    rows = language_rows()
    fit = train.fit(
        adapted,
        methods.mask(adapted, method),
        train.Objective(language_modeling.loss, rows, (16,), pad=0),
        replace(CONFIG, **settings),
        seed=3,
        score=lambda model: language_modeling.evaluate(model, rows, **EVALUATION),
    )
    if quantize != "none":
        return fit, []
    decoding = generation.Decoding(new_tokens=3, no_repeat=0)
    texts = generation.generate(fit.model, [[5, 6, 7], [8, 9]], decoding, eos_ids=2)
    return fit, texts.tokens


def facts_of(fit, texts):
    """What two trainings that are the same have in common."""
    validation = [scores["loss"] for scores in fit.validation]
    leaves = tree.find(fit.model, "lora_b").values()
    sums = [float(np.abs(np.asarray(leaf)).sum()) for leaf in leaves]
    return {"losses": [*fit.losses.tolist(), *validation, *sums], "texts": texts}


MESHES = {
    "none": {"mesh": "data=4,model=2", "shard_base": True},
    "nf4_double": {"mesh": "data=2,model=4"},
}

SCRIPT = """
import json
from lora_jax import devices, tree
from tests.train.test_sharding import MESHES, facts_of, population_facts, trained

for quantize, settings in MESHES.items():
    fit, texts = trained(quantize, **settings)
    assert fit.mesh.startswith(settings["mesh"])
    # The base stays where it was.
    assert devices.nbytes(fit.model) < 0.7 * tree.nbytes(fit.model)
    print(json.dumps(facts_of(fit, texts)))
print(json.dumps(population_facts(mesh="cells=4,data=2")))
"""


def population_facts(**settings):
    """The losses of three cells of two ranks, and of their best epochs' evaluation."""
    config = replace(CONFIG, **settings)
    model, _ = models.load("tiny-llama")
    rows = language_rows()
    cells = []
    for seed, rank in ((0, 1), (1, 2), (2, 2)):
        method = methods.lora("query,up", rank, rank_multiple=2)
        adapted = method.adapt(jax.random.key(seed), model)
        cells.append(train.Cell(adapted, methods.mask(adapted, method), config, seed))

    def score(population, live):
        scores = language_modeling.evaluate_many(population, rows, **EVALUATION)
        return [scores[index] for index in live]

    objective = train.Objective(language_modeling.loss, rows, (16,), pad=0)
    fits = train.fit_many(cells, objective, score=score)
    facts = []
    for fit in fits:
        facts.append(facts_of(fit, []))
    return facts


def test_a_training_on_eight_devices_is_that_on_one():
    # In a process of its own: this one has made its devices.
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    *by_format, population = [json.loads(line) for line in ended.stdout.splitlines()]
    for quantize, facts in zip(FORMATS, by_format, strict=True):
        fit, texts = trained(quantize)
        expected = facts_of(fit, texts)
        np.testing.assert_allclose(facts["losses"], expected["losses"], rtol=2e-6)
        assert facts["texts"] == texts
        # It learns something.
        assert fit.losses[-1] < fit.losses[0]
    # Three cells on four devices: the fourth has a copy that nobody is told of.
    for facts, expected in zip(population, population_facts(), strict=True):
        np.testing.assert_allclose(facts["losses"], expected["losses"], rtol=2e-6)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("data=3", "as many devices in all as there are, 2, got data=3"),
        ("data=2", "divides the 1 rows of a micro-batch, got data=2"),
        ("rows=2", "expected a number of devices for data"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_error_before_any_work(mesh, message):
    config = train.TrainConfig(batch=8, accumulate=8, mesh=mesh)
    with pytest.raises(ValueError, match=message):
        train.check(config)
