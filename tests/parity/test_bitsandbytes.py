"""The same bytes and numbers as bitsandbytes, either way, for NF4, FP4, double quantization and LLM.int8."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import quant
from lora_jax.checkpoints import bitsandbytes, safetensors
from lora_jax.quant import Scales, quantize
from lora_jax.quant.formats import DYNAMIC, FP4, NF4
from lora_jax.quant.packing import halves_to_neighbors
from tests.checkpoints.bitsandbytes.files import (
    FIXTURE,
    WRITTEN,
    collect,
    plain,
    write_weight,
)

torch = pytest.importorskip("torch")
bnb = pytest.importorskip("bitsandbytes")
functional = bnb.functional


@pytest.fixture(autouse=True)
def uncompiled():
    """Of odd widths bitsandbytes compiles its own code, which takes seconds and changes nothing."""
    with torch.compiler.set_stance("force_eager"):
        yield


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def theirs(w: Any, kind: str, block: int = 64, double: bool = False) -> tuple[Any, Any]:
    """(packed codes, QuantState)."""
    return functional.quantize_4bit(
        torch.tensor(w), blocksize=block, quant_type=kind, compress_statistics=double
    )


def dequantized(packed: Any, state: Any) -> Any:
    """bitsandbytes' numbers in a row. On processors with AVX-512, 0.50.2 gets them wrong by as much as they are large where a row
    of the matrix is no whole number of blocks; of a matrix of one row it never does."""
    one_row = functional.QuantState(
        state.absmax,
        torch.Size((1, state.shape.numel())),
        state.code,
        state.blocksize,
        state.quant_type,
        state.dtype,
        state.offset,
        state.state2,
    )
    return functional.dequantize_4bit(packed, one_row).reshape(state.shape)


def alike(got: Any, wanted: Any) -> bool:
    """The same bytes."""
    return np.asarray(got).tobytes() == wanted.numpy().tobytes()


def equal(got: Any, wanted: Any) -> bool:
    """The same numbers; FP4's two zeros have either sign as bitsandbytes reads them."""
    return (np.asarray(got, np.float32) == wanted.float().numpy()).all()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize(
    "shape, block",
    [
        ((64, 64), 64),
        ((64, 64), 128),
        ((40, 70), 32),
        ((3, 35), 64),
        ((7, 33), 256),
        ((1, 2), 32),
        ((130, 128), 512),
        ((65, 127), 1024),
        ((64, 96), 2048),
        ((512, 768), 4096),
    ],
)
def test_codes_scales_and_numbers(kind, shape, block):
    w = normal(*shape, seed=block)
    packed, state = theirs(w, kind, block)
    value = quantize(w, kind, block=block)
    assert alike(halves_to_neighbors(value.codes), packed) and alike(
        value.scales, state.absmax
    )
    assert equal(value.dequantize(), dequantized(packed, state))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_numbers_half_way_and_next_to_it(kind):
    table = NF4 if kind == "nf4" else FP4
    ordered = np.sort(table)
    half = (ordered[1:] + ordered[:-1]) / np.float32(2)
    around = [
        half,
        np.nextafter(half, np.float32(2)),
        np.nextafter(half, np.float32(-2)),
        [1, 0, -0.0, 1e-4, -1e-4, 1e-30],
    ]
    w = np.concatenate([*around, np.zeros(13)]).astype(np.float32)[
        None
    ]  # 64 numbers, the largest 1
    w[np.abs(w) < 1e-37] = (
        0  # next to FP4's two zeros: XLA takes subnormal numbers for 0
    )
    for sign in (1, -1):
        packed, state = theirs(sign * w, kind)
        value = quantize(sign * w, kind)
        assert alike(halves_to_neighbors(value.codes), packed) and equal(
            value.dequantize(), dequantized(packed, state)
        )


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_block_of_zeros(kind):
    w = normal(4, 64)
    w[1] = 0
    packed, state = theirs(w, kind)
    assert alike(halves_to_neighbors(quantize(w, kind).codes), packed) and alike(
        quantize(w, kind).scales, state.absmax
    )
    assert state.absmax[1] == 0 and set(packed[32:64].flatten().tolist()) == {
        0x77 if kind == "nf4" else 0
    }


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(kind, dtype):
    w = torch.tensor(normal(6, 70)).to(getattr(torch, dtype))
    packed, state = functional.quantize_4bit(w, quant_type=kind)
    value = quantize(jnp.array(w.float().numpy()).astype(dtype), kind)
    assert alike(halves_to_neighbors(value.codes), packed) and alike(
        value.scales, state.absmax
    )
    assert equal(value.dequantize(), dequantized(packed, state))


def test_tables():
    for kind, table in bitsandbytes.TABLES.items():
        assert alike(table, functional.get_4bit_type(kind, device="cpu"))
    assert alike(DYNAMIC, functional.create_dynamic_map())


def ulps(a: Any, b: Any) -> int:
    """The distance of positive float32 numbers, counted in numbers between."""
    return int(np.abs(np.asarray(a).view(np.int32) - b.numpy().view(np.int32)).max())


@pytest.mark.parametrize("shape", [(8, 64), (40, 70), (130, 128), (512, 768)])
def test_double_quantization(shape):
    w = normal(*shape)
    packed, state = theirs(w, "nf4", double=True)
    value = quantize(w, "nf4", double=True)
    assert isinstance(value.scales, Scales)
    # torch sums in another order than XLA, and the distances to the mean inherit what that changes
    assert ulps(value.scales.offset, state.offset) <= 1
    np.testing.assert_allclose(
        value.scales.scales, state.state2.absmax, rtol=0, atol=2.0**-21
    )
    # On a CPU, bitsandbytes first rounds to 65,535 steps from -1 to 1: next to half way it may take the other neighbor.
    ours, codes = (
        np.asarray(value.scales.codes).astype(int),
        state.absmax.numpy().astype(int),
    )
    differ = np.flatnonzero(ours != codes)
    assert len(differ) <= 0.005 * len(codes) and (np.abs(ours - codes) <= 1).all()
    distance = np.asarray(quantize(w, "nf4").scales)[differ] - np.asarray(
        value.scales.offset
    )
    scaled = distance / np.repeat(value.scales.scales, quant.NESTED)[differ]
    half = (DYNAMIC[ours[differ]] + DYNAMIC[codes[differ]]) / 2
    assert (np.abs(scaled - half) <= 1.01 / 65535).all()
    assert alike(halves_to_neighbors(value.codes), packed)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_what_is_written_here_is_loaded_by_bitsandbytes(kind, double):
    value = quantize(normal(130, 128), kind, double=double)
    arrays = {
        name: torch.tensor(array)
        for name, array in write_weight("m.weight", value).items()
    }
    packed = arrays.pop("m.weight")
    state = functional.QuantState.from_dict(arrays, device=torch.device("cpu"))
    assert (
        state.shape == (130, 128)
        and state.dtype == torch.float32
        and state.nested == double
    )
    assert equal(value.dequantize(), functional.dequantize_4bit(packed, state))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_bitsandbytes_saves_is_collect(kind, double, dtype):
    w = torch.tensor(normal(130, 128)).to(getattr(torch, dtype))
    packed, state = functional.quantize_4bit(
        w, quant_type=kind, compress_statistics=double
    )
    arrays = {
        f"m.weight.{name}": array.numpy()
        for name, array in state.as_dict(packed=True).items()
    }
    tensor = collect(arrays | {"m.weight": packed.numpy()})["m.weight"]
    value: Any = tensor.read()
    assert tensor.shape == value.shape == (
        130,
        128,
    ) and tensor.dtype == value.dtype == jnp.dtype(dtype)
    assert equal(value.dequantize(), functional.dequantize_4bit(packed, state))


def test_llm_int8():
    codes, scales, _ = functional.int8_vectorwise_quant(
        torch.tensor(normal(6, 70)).half()
    )
    value: Any = collect({"m.weight": codes.numpy(), "m.SCB": scales.numpy()})[
        "m.weight"
    ].read()
    np.testing.assert_allclose(
        value.dequantize(), functional.int8_vectorwise_dequant(codes, scales), rtol=1e-6
    )


def layer(name: str) -> Any:
    """bitsandbytes' own layer with that weight of the fixture."""
    (out, width), kind, block, double, dtype = WRITTEN[name]
    w = torch.tensor(plain((out, width))).to(getattr(torch, dtype))
    if kind == "int8":
        made = bnb.nn.Linear8bitLt(width, out, bias=False, has_fp16_weights=False)
        made.weight = bnb.nn.Int8Params(w, requires_grad=False, has_fp16_weights=False)
    else:
        made = bnb.nn.Linear4bit(width, out, bias=False)
        made.weight = bnb.nn.Params4bit(
            w,
            requires_grad=False,
            quant_type=kind,
            blocksize=block,
            compress_statistics=double,
        )
    return made.to("cpu")


def written() -> dict[str, Any]:
    """What the fixture has."""
    tensors = {}
    for name, (*_, kind, _, _, _) in WRITTEN.items():
        made = layer(name)
        state = {
            key: tensor.clone()
            for key, tensor in made.state_dict(prefix=f"{name}.").items()
        }
        if kind == "int8":
            numbers = functional.int8_vectorwise_dequant(
                state[f"{name}.weight"], state[f"{name}.SCB"]
            )
        else:
            numbers = dequantized(made.weight.data, made.weight.quant_state)
        tensors |= state | {f"{name}.dequantized": numbers.contiguous()}
    return tensors


def test_the_fixture_is_what_bitsandbytes_writes():
    from safetensors.torch import save

    anew, kept = (
        safetensors.tensors(save(written())),
        safetensors.tensors(FIXTURE.read_bytes()),
    )
    assert anew.keys() == kept.keys()
    for name, tensor in anew.items():
        assert tensor.read().tobytes() == kept[name].read().tobytes(), name
