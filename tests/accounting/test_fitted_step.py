"""A step's cost on a machine: bytes of its parts, what is refused, and its floors."""

import jax
import pytest

from lora_jax import methods, models, train, tree
from lora_jax.accounting import fitted_step
from lora_jax.accounting.fitted_step import FittedStep

STEP = FittedStep(
    "tiny-llama",
    method="lora",
    targets="query,value",
    rank=2,
    quantize="none",
    dtype="float32",
    compute="float32",
    batch=4,
    length=16,
    recompute="none",
    machine="cpu",
)


@pytest.fixture(scope="module")
def row():
    return fitted_step.step_cost(STEP)


@pytest.fixture(scope="module")
def adapted():
    method = methods.lora("query,value", 2)
    model, _ = models.load("tiny-llama")
    model = method.adapt(jax.random.key(0), model)
    return tree.split(model, methods.mask(model, method))


def test_the_parts_are_those_of_a_real_model(row, adapted):
    trainable, frozen = adapted
    metrics = row["metrics"]
    assert metrics["bytes/base"] == tree.nbytes(frozen)
    assert metrics["bytes/adapters"] == tree.nbytes(trainable)
    state = train.optimizer(train.StepConfig()).init(trainable)
    assert metrics["bytes/optimizer"] == tree.nbytes(state)


def test_the_arguments_are_the_parts_and_a_batch(row):
    metrics = row["metrics"]
    parts = sum(metrics[f"bytes/{name}"] for name in ("base", "adapters", "optimizer"))
    batch = metrics["bytes/arguments"] - parts
    # Tokens alone are 4 x 16 x 4 bytes; what the step does not read is no argument.
    assert 0 < batch < 1000
    assert metrics["bytes/total"] >= parts + metrics["bytes/temporary"]


def test_the_operations_are_those_of_the_layers(row):
    # Elements of the kernels of the blocks: width 32, 2 of 4 heads are keys', ffn 48.
    attention = 2 * 32 * 32 + 2 * 32 * 16
    kernels = 2 * (attention + 3 * 32 * 48) + 32 * 257
    tokens = 4 * 16
    # Forward, and the gradient by the inputs; attention's scores and LoRA come on top.
    products = 2 * 2 * kernels * tokens
    assert products <= row["metrics"]["step/operations"] <= 1.5 * products
    # A processor has no published peak.
    assert not any(name.startswith("floor/") for name in row["metrics"])


def test_a_step_of_one_device_sends_nothing_and_fits(row):
    assert row["metrics"]["step/fits"] == row["metrics"]["step/devices"] == 1
    assert row["collectives"] == {}
    assert row["compiler"].startswith("jaxlib ")
    sizes = [result["bytes"] for result in row["largest"]]
    assert sizes == sorted(sizes, reverse=True)


def test_a_quantized_base_takes_its_bits():
    quantized = STEP._replace(quantize="nf4_double")
    _, frozen = fitted_step.step_shapes(quantized)
    _, plain = fitted_step.step_shapes(STEP)
    kernels = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    saved = tree.nbytes(plain) - tree.nbytes(frozen)
    # 32 bits become 4.127, and a little more for so small matrices.
    assert saved == pytest.approx(kernels * (32 - 4.127) / 8, rel=0.01)


def test_adapters_in_16_bits_take_half_and_their_moments_do_not():
    narrow = STEP._replace(adapter_dtype="bfloat16")
    arguments = [fitted_step._arguments(step) for step in (STEP, narrow)]
    wide_bytes, narrow_bytes = [tree.nbytes(step.trainable) for step in arguments]
    assert narrow_bytes == wide_bytes / 2
    wide_state, narrow_state = [tree.nbytes(step.state) for step in arguments]
    assert narrow_state == wide_state


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        ("RESOURCE_EXHAUSTED: Used 20.7G of 15.75G hbm. Exceeded", 20.7),
        ("RESOURCE_EXHAUSTED: the HLO temporaries (40.32G) exceeds", 40.32),
        ("RESOURCE_EXHAUSTED: out of memory", None),
    ],
)
def test_a_step_that_a_compiler_refuses_does_not_fit(text, gib):
    row = fitted_step._refused({"bytes/base": 1}, RuntimeError(f"{text}\nmore"))
    assert row["refused"] == text
    assert row["metrics"]["step/fits"] == 0
    total = row["metrics"].get("bytes/total")
    assert total == (None if gib is None else int(gib * 2**30))


def test_a_compiler_that_fails_otherwise_is_an_error():
    with pytest.raises(ValueError, match="the compiler failed: INTERNAL"):
        fitted_step._refused({}, RuntimeError("INTERNAL"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"machine": "h1000"}, "machine: expected one of cpu, h100"),
        ({"machine": "h100x8"}, "mesh: expected 8 devices in all"),
        ({"mesh": "data=2"}, "expected 1 device in all, of cpu, got data=2"),
        ({"mesh": "rows=1"}, "mesh: expected a number of devices"),
        ({"machine": "h100x8", "mesh": "cells=8"}, "mesh: cells are the trainings"),
        (
            {"machine": "h100x8", "mesh": "data=8"},
            "batch: expected a multiple of data, 8, got 4",
        ),
        ({"length": 1025}, "at least 1 row of 1 to 1024 tokens"),
        ({"recompute": "all"}, "remat: expected one of none"),
        ({"targets": "qeury"}, "'qeury' matches no layer"),
        ({"quantize": "nf5"}, "quantize: expected one of"),
        ({"adapter_dtype": "int8"}, "adapter_dtype: expected one of float32, bfloat16"),
        ({"method": "lore"}, "method: expected one of lora"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_compiled(changes, text):
    with pytest.raises(ValueError) as error:
        fitted_step.check([STEP._replace(**changes)])
    assert text in str(error.value)


def test_all_that_is_wrong_is_said_at_once():
    steps = [
        STEP._replace(machine="h1000", targets="qeury"),
        STEP._replace(recompute="all"),
    ]
    with pytest.raises(
        ValueError, match=r"machine: .*; 'qeury'|machine: .*qeury.*remat"
    ):
        fitted_step.check(steps)
