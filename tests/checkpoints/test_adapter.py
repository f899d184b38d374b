"""Trainable leaves are kept and read back, adapters in few bits as their numbers."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import methods, quant, tree
from lora_jax.checkpoints import adapter
from lora_jax.quant.formats import CODECS

LORA = methods.lora(rank=4)
PATH = "blocks/attention/query/lora_a"


def random(model, method, *, head=True):
    """The adapted model with random trainable leaves, and their mask.

    Directions of rank that are padding stay zeros.
    """
    model = method.adapt(jax.random.key(0), model)
    rng = np.random.default_rng(0)
    new = {}
    for path, leaf in tree.leaves(model).items():
        if re.search(r"lora_[ab]$|^head/", path):
            new[path] = jnp.float32(rng.normal(size=leaf.shape))
    for path, layer in methods.adapters(model).items():
        # [L, r]
        is_direction = layer.scale[...] != 0
        new[f"{path}/lora_a"] *= is_direction[:, None, :]
        new[f"{path}/lora_b"] *= is_direction[:, :, None]
    model = tree.replace(model, new)
    return model, methods.mask(model, method, head=head)


@pytest.fixture(scope="module")
def trained(tiny):
    return random(tiny(), LORA)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def metadata_of(data):
    """The metadata in a safetensors file's header."""
    # A length of 8 bytes, then that much JSON.
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]


def edited(data, change):
    """The file with its arrays and the facts of its quantized leaves changed."""
    arrays = safetensors.numpy.load(data)
    metadata = metadata_of(data)
    facts = json.loads(metadata["quantized"])
    change(arrays, facts)
    metadata["quantized"] = json.dumps(facts)
    return safetensors.numpy.save(arrays, metadata=metadata)


class TestFloats:
    @pytest.mark.parametrize(
        "method",
        [LORA, methods.full(), methods.bitfit()],
        ids=lambda method: method.name,
    )
    def test_trainable_leaves_come_back_bit_for_bit_on_the_same_base(
        self, method, tiny, same, path
    ):
        start = method.adapt(jax.random.key(0), tiny())
        mask = methods.mask(start, method)
        trained = jax.tree.map(
            lambda leaf, is_trainable: leaf + 0.5 if is_trainable else leaf, start, mask
        )
        path.write_bytes(
            adapter.dump(trained, mask, {"key": "k", "metrics": {"test/f1": 0.5}})
        )
        model, row = adapter.load(path, start, mask)
        assert same(model, trained) and not same(model, start)
        assert row == json.loads('{"key": "k", "metrics": {"test/f1": 0.5}}')

    def test_the_base_is_not_in_the_file(self, trained):
        model, mask = trained
        trainable, _ = tree.split(model, mask)
        # In float32, and a header.
        size = 4 * tree.count(trainable)
        assert size < len(adapter.dump(model, mask, {})) < size + 2000
        assert size + 2000 < 4 * tree.count(model)

    @pytest.mark.parametrize("quantize", [None, "nf4"])
    def test_a_file_of_another_run_is_refused_with_every_difference(
        self, quantize, trained, tiny, path
    ):
        path.write_bytes(adapter.dump(*trained, row={}, quantize=quantize))
        method = methods.lora("value", rank=2)
        other = method.adapt(jax.random.key(0), tiny())
        with pytest.raises(ValueError) as error:
            adapter.load(path, other, methods.mask(other, method))
        text = str(error.value)
        assert (
            "blocks/attention/value/lora_a: expected (2, 16, 2), got (2, 16, 4)" in text
        )
        assert "blocks/attention/query/lora_b: expected none, got (2, 4, 16)" in text

    @pytest.mark.parametrize("quantize", [None, "nf4_double"])
    @pytest.mark.parametrize("end", [-7, 100, 4])
    def test_part_of_a_file_is_refused(self, quantize, end, trained, path):
        path.write_bytes(adapter.dump(*trained, row={}, quantize=quantize)[:end])
        with pytest.raises(
            ValueError,
            match=r"not a whole safetensors file .* delete it to train it anew",
        ):
            adapter.load(path, *trained)

    @pytest.mark.parametrize(
        "metadata",
        [
            None,
            {"format": "pt"},
            {"row": "{"},
            {"row": "[1]"},
            {"row": "[" * 5000 + "]" * 5000},
            {"row": "{}", "quantized": "[1]"},
            {"row": "{}", "quantized": '[["a", 1]]'},
        ],
    )
    def test_another_safetensors_file_is_refused(self, metadata, trained, path):
        path.write_bytes(safetensors.numpy.save({"a": np.zeros(2)}, metadata=metadata))
        with pytest.raises(
            ValueError,
            match=r"expected trained leaves and the training.s row, got another",
        ):
            adapter.load(path, *trained)


class TestFewBits:
    @pytest.mark.parametrize("codec", quant.FORMATS)
    def test_adapters_come_back_as_what_their_bits_stand_for_and_the_rest_as_it_was(
        self, codec, trained, path
    ):
        model, mask = trained
        path.write_bytes(adapter.dump(model, mask, {"key": "k"}, quantize=codec))
        loaded, row = adapter.load(path, model, mask)
        assert row == {"key": "k"}
        assert jax.tree.structure(loaded) == jax.tree.structure(model)

        spec = quant.FORMATS[codec]

        def rounded(w):
            return quant.quantize(w, spec.codec, double=spec.double).dequantize()

        before, after = tree.leaves(model), tree.leaves(loaded)
        for name, w in before.items():
            expected = w
            # Blocks run along the long axes: those of A are its columns.
            if name.endswith("lora_a"):
                expected = rounded(w.swapaxes(-1, -2)).swapaxes(-1, -2)
            elif name.endswith("lora_b"):
                expected = rounded(w)
            assert after[name].dtype == w.dtype
            np.testing.assert_array_equal(after[name], expected, err_msg=name)
        assert not np.array_equal(after[PATH], before[PATH])

    def test_blocks_run_along_the_long_axis_of_both(self):
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(2, 64, 4)), rng.normal(size=(2, 4, 64))
        # Directions of very different size: a scale for each shows the blocks.
        strength = 10.0 ** np.arange(4)
        spec = quant.FORMATS["nf4"]._replace(paths=adapter.LORA_MATRICES)
        for name, w, axis in (
            ("q/lora_a", a * strength, -2),
            ("q/lora_b", b * strength[:, None], -1),
        ):
            value = spec(name, jnp.float32(w))
            assert value.shape == w.shape
            largest = np.abs(np.float32(w)).max(axis)
            np.testing.assert_array_equal(value.scales, largest)

    @pytest.mark.parametrize("codec", quant.FORMATS)
    def test_idle_adapters_and_padding_stay_zero(self, codec, tiny, path):
        method = methods.lora(
            "query", rank=3, rank_multiple=8, idle_targets="query,value"
        )
        model, mask = random(tiny(), method)
        path.write_bytes(adapter.dump(model, mask, {}, quantize=codec))
        loaded, _ = adapter.load(path, model, mask)
        layers = methods.adapters(loaded)
        query = layers["blocks/attention/query"]
        idle = layers["blocks/attention/value"]
        assert not idle.lora_a[...].any() and not idle.lora_b[...].any()
        # [L, r, i + o]
        rows = np.concatenate(
            [query.lora_a[...].swapaxes(-1, -2), query.lora_b[...]], -1
        )
        padding = rows[:, 3:]
        # A block of 64 is four of the eight rows: one with padding and numbers, one of
        # padding.
        assert np.any(padding[:, 0]) == (codec == "int4_affine")
        assert not np.any(padding[:, 1:])
        a, b = query.factors()
        np.testing.assert_allclose(query.delta(), a @ b, rtol=1e-4, atol=1e-4)

    def test_a_spec_chooses_what_is_stored_in_few_bits(self, trained, path):
        model, mask = trained
        spec = quant.Spec("int8", block=32, paths="query/lora_b$|^head/kernel$")
        path.write_bytes(adapter.dump(model, mask, {}, quantize=spec))
        after = tree.leaves(adapter.load(path, model, mask)[0])
        changed = set()
        for name, leaf in tree.leaves(model).items():
            if not np.array_equal(leaf, after[name]):
                changed.add(name)
        assert changed == {"blocks/attention/query/lora_b", "head/kernel"}
        arrays = safetensors.numpy.load(path.read_bytes())
        assert arrays["blocks/attention/query/lora_b/scales"].shape == (2, 2)

    @pytest.mark.parametrize(
        "codec, bits",
        [
            ("int8", 8 + 32 / 384),
            ("nf4", 4.5),
            ("nf4_double", 4 + (48 * 8 + 64) / 3072),
        ],
    )
    def test_the_file_is_as_small_as_its_bits(self, codec, bits, tiny):
        # As wide and deep as MiniLM.
        wide = tiny("bert", 2, layers=6, width=384)
        method = methods.lora("query,key,value,output", rank=8)
        model, mask = random(wide, method, head=False)
        # Targets, layers, rank, columns of A and B.
        numbers = 4 * 6 * 8 * (384 + 384)
        floats = len(adapter.dump(model, mask, {}))
        small = len(adapter.dump(model, mask, {}, quantize=codec))
        assert 4 * numbers < floats < 4 * numbers + 1500
        assert bits / 8 * numbers < small < bits / 8 * numbers + 5000
        least = {"int8": 3.8, "nf4": 6.8, "nf4_double": 7.3}
        assert least[codec] < floats / small < 32 / bits

    def test_what_cannot_be_stored_so_is_refused(self, trained, tiny):
        model, mask = trained
        with pytest.raises(
            ValueError,
            match=r"quantize: expected one of nf4, .*nf4_double.*, got 'nf3'",
        ):
            adapter.dump(model, mask, {}, quantize="nf3")
        broken = tree.replace(
            model, {PATH: tree.leaves(model)[PATH].at[0, 0, 0].set(jnp.nan)}
        )
        with pytest.raises(
            ValueError,
            match=f"{PATH}: expected finite weights, got 1 that are NaN or infinite",
        ):
            adapter.dump(broken, mask, {}, quantize="nf4")
        with pytest.raises(
            ValueError, match=r"lora_\[ab\]\$' matches no leaf; there are: .*bias"
        ):
            adapter.dump(
                tiny(), methods.mask(tiny(), methods.bitfit()), {}, quantize="nf4"
            )

    @pytest.mark.parametrize(
        "change, text",
        [
            (
                lambda arrays, facts: arrays.pop(f"{PATH}/scales"),
                "scales expected float32 (2, 1), got none",
            ),
            (
                lambda arrays, facts: arrays.update({f"{PATH}/minima": np.zeros(3)}),
                "minima expected none, got float64 (3,)",
            ),
            (
                lambda arrays, facts: facts[PATH].update(block=32),
                "scales expected float32 (2, 2), got float32 (2, 1)",
            ),
            (
                lambda arrays, facts: facts[PATH].update(block=48),
                "expected kind, block, stored, transposed and dtype of a",
            ),
            (
                lambda arrays, facts: facts[PATH].update(block=10**9),
                "expected kind, block, stored, transposed and dtype of a",
            ),
            (
                lambda arrays, facts: facts[PATH].update(stored=[10**30, 64]),
                f"\n  {PATH}: ",
            ),
            (
                lambda arrays, facts: facts[PATH].update(stored=[2**62, 2**62]),
                f"\n  {PATH}: ",
            ),
            (
                lambda arrays, facts: facts[PATH].update(transposed="yes"),
                "expected kind, block, stored, transposed and dtype of a",
            ),
            (
                lambda arrays, facts: facts[PATH].update(kind=["nf4"]),
                f"\n  {PATH}: ",
            ),
            (
                lambda arrays, facts: facts[PATH].update(kind="int8"),
                "codes expected int8 (2, 64), got uint8 (2, 32)",
            ),
            (
                lambda arrays, facts: facts[PATH].update(stored=[8, 16]),
                "codes expected uint8 (2, 64), got uint8 (2, 32)",
            ),
            (
                lambda arrays, facts: facts[PATH].update(kind="nf3"),
                "expected kind, block, stored, transposed and dtype of a",
            ),
            (
                lambda arrays, facts: facts[PATH].update(dtype="int32"),
                "expected kind, block, stored, transposed and dtype",
            ),
            (
                lambda arrays, facts: facts[PATH].pop("block"),
                "'dtype': 'float32'} and arrays codes, scales",
            ),
            (
                lambda arrays, facts: facts.update({"head": {}}),
                "head: expected kind, block, stored, transposed and dtype of a",
            ),
            (
                lambda arrays, facts: facts.update({PATH: 3}),
                "got 3 and arrays codes, scales",
            ),
        ],
    )
    def test_bits_that_do_not_fit_their_facts_are_refused(
        self, change, text, trained, path
    ):
        path.write_bytes(edited(adapter.dump(*trained, row={}, quantize="nf4"), change))
        with pytest.raises(ValueError) as error:
            adapter.load(path, *trained)
        message = str(error.value)
        assert "its metadata does not fit its quantized arrays:\n" in message
        assert text in message

    def test_every_one_that_does_not_fit_is_named(self, trained, path):
        def change(arrays, facts):
            for leaf_facts in facts.values():
                leaf_facts["block"] = 0

        path.write_bytes(edited(adapter.dump(*trained, row={}, quantize="fp4"), change))
        with pytest.raises(ValueError) as error:
            adapter.load(path, *trained)
        assert str(error.value).count("'block': 0") == 4

    def test_bits_without_facts_do_not_fit_the_model(self, trained, path):
        path.write_bytes(
            edited(
                adapter.dump(*trained, row={}, quantize="nf4"),
                lambda arrays, facts: facts.clear(),
            )
        )
        text = rf"does not fit the model:\n  {PATH}: expected \(2, 16, 4\), got none"
        with pytest.raises(ValueError, match=text):
            adapter.load(path, *trained)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(CODECS)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["float32", "bfloat16"]),
    st.lists(st.integers(1, 3), max_size=2),
    st.tuples(st.integers(1, 9), st.sampled_from([1, 31, 64, 65])),
)
def test_any_value_comes_back_from_its_arrays_and_facts(
    same, codec, double, transposed, dtype, lead, stored
):
    # The arrays of a quantized value of this shape, with any numbers in them.
    quantize = partial(quant.quantize, codec=codec, double=double)
    matrices = jax.ShapeDtypeStruct((*lead, *stored), jnp.dtype(dtype))
    rng = np.random.default_rng(0)

    def random_numbers(leaf):
        return jnp.asarray(rng.integers(0, 100, leaf.shape), leaf.dtype)

    value = jax.tree.map(random_numbers, jax.eval_shape(quantize, matrices))
    if transposed:
        value = value.T

    arrays, facts = quant.to_arrays(value)
    assert sum(array.nbytes for array in arrays.values()) == value.nbytes
    numpy_arrays = {name: np.asarray(array) for name, array in arrays.items()}
    read = quant.from_arrays(numpy_arrays, json.loads(json.dumps(facts)))
    assert same(read, value)
    assert read.shape == value.shape and read.dtype == dtype
