"""What is wrong with a group of bitsandbytes' tensors is named, all of it at once."""

import json

import numpy as np
import pytest

from lora_jax.quant.formats import FP4, NF4
from tests.checkpoints.bitsandbytes.files import JSON, collect, group


@pytest.mark.parametrize(
    "arrays, part",
    [
        (group(), "w.weight.absmax"),
        (group(double=True), "w.weight.nested_absmax"),
        (
            {"w.weight": np.ones((2, 3), np.int8), "w.SCB": np.ones(2, np.float32)},
            "w.SCB",
        ),
    ],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scales_that_are_no_numbers_are_refused(arrays, part, bad):
    numbers = arrays[part].copy()
    numbers.reshape(-1)[0] = bad
    name = part.replace(".SCB", ".weight: SCB")
    text = f"{name}: expected finite scales, got 1 that are NaN or infinite"
    with pytest.raises(ValueError, match=text):
        collect(arrays | {part: numbers})["w.weight"].read()


def changed(**facts: object) -> dict[str, np.ndarray]:
    """The group with other facts in its JSON; None takes a fact away."""
    arrays = group(double=True)
    state = json.loads(arrays[JSON].tobytes())
    for name, fact in facts.items():
        state[name] = fact
        if fact is None:
            del state[name]
    text = json.dumps(state).encode()
    return arrays | {JSON: np.frombuffer(text, np.uint8)}


def without(*names: str) -> dict[str, np.ndarray]:
    """The group without some of its tensors."""
    arrays = group(double=True)
    for name in names:
        del arrays[name]
    return arrays


U8 = np.uint8
F32 = np.float32


@pytest.mark.parametrize(
    "arrays, text",
    [
        (
            without("w.weight"),
            "w.weight: expected with w.weight.absmax, w.weight.nested_absmax, ",
        ),
        (without("w.weight.absmax"), "w.weight: expected with absmax, got none"),
        (without("w.weight.quant_map"), "w.weight: expected with quant_map, got none"),
        (
            without("w.weight.nested_absmax"),
            "w.weight: expected with nested_absmax, got none",
        ),
        (
            without("w.weight.nested_quant_map"),
            "w.weight: expected with nested_quant_map, got none",
        ),
        (
            without(JSON),
            "w.weight: expected with quant_state.bitsandbytes__nf4 or "
            "quant_state.bitsandbytes__fp4, got none",
        ),
        (
            without(JSON) | {JSON[:-3] + "nf3": np.array([123], U8)},
            "bitsandbytes__fp4, got quant_state.bitsandbytes__nf3",
        ),
        (
            group() | group("fp4"),
            "got quant_state.bitsandbytes__fp4, quant_state.bitsandbytes__nf4",
        ),
        (
            group() | {JSON: np.array([123, 34], U8)},
            f"{JSON}: expected a JSON object, got b'{{\"' (",
        ),
        (
            group() | {JSON: np.array([0xFF], U8)},
            f"{JSON}: expected a JSON object, got b'\\xff' (",
        ),
        (
            group() | {JSON: np.frombuffer(b"[" * 10**5, U8)},
            f"{JSON}: expected a JSON object, got b'[[[",
        ),
        (
            group() | {JSON: np.frombuffer(b"[64]", U8)},
            f"{JSON}: expected a JSON object, got b'[64]' (",
        ),
        (
            changed(quant_type="fp4"),
            f"{JSON}: expected quant_type to be 'nf4', got 'fp4'",
        ),
        (
            changed(blocksize=48),
            f"{JSON}: expected blocksize to be one of "
            "(32, 64, 128, 256, 512, 1024, 2048, 4096), got 48",
        ),
        (changed(blocksize="64"), "4096), got '64'"),
        (changed(blocksize=64.0), "4096), got 64.0"),
        (changed(blocksize=None), "4096), got None"),
        (
            changed(dtype="int8"),
            f"{JSON}: expected dtype to be one of float32, float16, bfloat16, "
            "got 'int8'",
        ),
        (changed(shape=[2560]), f"{JSON}: expected shape to be [out, in], got [2560]"),
        (
            changed(shape=[-40, -64]),
            f"{JSON}: expected shape to be [out, in], got [-40, -64]",
        ),
        (changed(shape=64), f"{JSON}: expected shape to be [out, in], got 64"),
        (
            changed(nested_blocksize=128),
            f"{JSON}: expected nested_blocksize to be 256, got 128",
        ),
        (
            changed(nested_dtype="float16"),
            f"{JSON}: expected nested_dtype to be 'float32', got 'float16'",
        ),
        (
            changed(nested_offset=None),
            f"{JSON}: expected nested_offset to be a number, got None",
        ),
        (
            changed(nested_offset=float("nan")),
            f"{JSON}: expected nested_offset to be a number, got nan",
        ),
        (
            changed(nested_offset=10**400),
            f"{JSON}: expected nested_offset to be a number, got 1000",
        ),
        (
            changed(shape=[40, 66]),
            "w.weight: expected 1320 bytes for (40, 66), got 1280",
        ),
        (
            changed(shape=[40, 66]),
            "w.weight.absmax: expected uint8 42, got uint8 (40,)",
        ),
        (changed(blocksize=32), "w.weight.absmax: expected uint8 80, got uint8 (40,)"),
        (
            group() | {"w.weight.absmax": np.zeros(40, U8)},
            "w.weight.absmax: expected float32 40, got uint8 (40,)",
        ),
        (
            group() | {"w.weight.quant_map": FP4},
            "w.weight.quant_map: expected the numbers of nf4",
        ),
        (
            group() | {"w.weight.quant_map": NF4 * F32(0.9999)},
            "w.weight.quant_map: expected the numbers of nf4",
        ),
        (
            group() | {"w.weight.quant_map": np.full(16, np.nan, F32)},
            "w.weight.quant_map: expected the numbers of nf4",
        ),
        (
            group() | {"w.weight.quant_map": NF4[:8]},
            "w.weight.quant_map: expected float32 16, got float32 (8,)",
        ),
        (
            group(double=True)
            | {"w.weight.nested_quant_map": np.linspace(-1, 1, 256, dtype=F32)},
            "w.weight.nested_quant_map: expected the numbers of double quantization",
        ),
        (
            group() | {"w.SCB": np.ones(40, F32)},
            "w.weight: expected an int8 matrix (out, in) with SCB, got uint8 (1280, 1)",
        ),
        ({"w.SCB": np.ones(40, F32)}, "w.weight: expected with w.SCB, got none"),
        (
            {"w.weight": np.ones((2, 3), np.int8), "w.weight_format": np.array(0, U8)},
            "w.weight: expected with SCB, got none",
        ),
        (
            {"w.weight": np.ones((2, 3), np.int8), "w.SCB": np.ones(3, F32)},
            "w.weight.SCB: expected float32 2, got float32 (3,)",
        ),
        (
            {
                "w.weight": np.ones((2, 3), np.int8),
                "w.SCB": np.ones(2, F32),
                "w.weight_format": np.array(2, U8),
            },
            "w.weight: expected rows (weight_format 0), got [2]",
        ),
        (
            {
                "w.weight": np.ones((2, 3), np.int8),
                "w.SCB": np.ones(2, F32),
                "w.weight.absmax": np.ones(2, F32),
            },
            "w.weight.absmax: expected none beside SCB",
        ),
        (
            {
                "w.weight": np.ones((2, 3), np.int8),
                "w.SCB": np.ones(2, F32),
                JSON: group()[JSON],
            },
            f"{JSON}: expected none beside SCB",
        ),
    ],
)
def test_what_is_wrong_with_a_group_is_said(arrays, text):
    with pytest.raises(
        ValueError,
        match=r"^weights that are not as bitsandbytes stores them:\n  w\.weight",
    ) as caught:
        collect(arrays)
    assert text in str(caught.value)


def test_every_problem_of_every_weight_is_named_at_once():
    bad = changed(quant_type="fp4", shape=[1], nested_blocksize=1)
    other = {
        name.replace("w.", "v.", 1): array
        for name, array in without("w.weight.absmax", "w.weight.quant_map").items()
    }
    with pytest.raises(ValueError) as caught:
        collect(bad | other | {"u.SCB": np.ones(2, F32)})
    text = str(caught.value)
    assert text.count("\n") == 6
    for part in (
        "quant_type to be",
        "shape to be",
        "nested_blocksize to be",
        "v.weight: expected with absmax",
        "u.weight",
    ):
        assert part in text, part
