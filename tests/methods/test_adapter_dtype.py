"""Adapters in bfloat16: which leaves are, and that merging and saving know them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import methods, tree
from lora_jax.checkpoints import adapter

KEY = jax.random.key(1)


def dtypes(model) -> dict[str, str]:
    """The dtype of each leaf of a model by path."""
    return {path: leaf.dtype.name for path, leaf in tree.leaves(model).items()}


@pytest.mark.parametrize("name", methods.METHODS)
def test_the_leaves_that_a_method_adds_are_stored_so_and_no_others(name, tiny, same):
    method = methods.METHODS[name]()
    narrow = methods.with_adapter_dtype(method, "bfloat16")
    plain = method.adapt(KEY, tiny())
    adapted = narrow.adapt(KEY, tiny())
    if name in methods.WITHOUT_ADAPTERS:
        assert same(adapted, plain) and not methods.adapters(plain)
        return
    before = tree.leaves(tiny())
    for path, dtype in dtypes(adapted).items():
        # LoRA's alpha/r is added too, but not trained.
        is_setting = name == "lora" and path.endswith("/scale")
        is_float32 = is_setting or path.replace("base/", "") in before
        assert dtype == ("float32" if is_float32 else "bfloat16"), path
    # Rounded, and drawn as in float32.
    rounded = jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), plain, adapted)
    assert same(rounded, adapted)


def test_adapters_of_another_method_and_trained_biases_stay(tiny):
    prefixed = methods.prefix(2).adapt(KEY, tiny())
    method = methods.lora("query", 2, bias="lora_only")
    adapted = methods.with_adapter_dtype(method, "bfloat16").adapt(KEY, prefixed)
    narrow = {path for path, dtype in dtypes(adapted).items() if dtype == "bfloat16"}
    assert {path.rpartition("/")[2] for path in narrow} == {"lora_a", "lora_b"}
    assert all(path.startswith("blocks/attention/base/query/") for path in narrow)


def test_they_are_merged_in_float32_and_saved_as_they_are(tiny, same, tmp_path):
    method = methods.with_adapter_dtype(methods.lora("query", 2), "bfloat16")
    start = method.adapt(KEY, tiny())
    path = "blocks/attention/query/lora_b"
    b = jnp.full(start.blocks.attention.query.lora_b.shape, 0.3, jnp.bfloat16)
    model = tree.replace(start, {path: b})
    layer = model.blocks.attention.query
    kernel = methods.merge(model).blocks.attention.query.kernel[...]
    assert kernel.dtype == jnp.float32
    assert {part.dtype.name for part in layer.factors()} == {"float32"}
    wide = [np.float32(part[...]) for part in (layer.lora_a, layer.lora_b)]
    delta = np.float32(16 / 2) * (wide[0] @ wide[1])
    np.testing.assert_allclose(kernel, layer.base.kernel[...] + delta, rtol=1e-5)

    mask = methods.mask(model, method)
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(adapter.dump(model, mask, {}))
    again, _ = adapter.load(file, start, mask)
    assert same(again, model)


def test_float32_is_the_method_itself():
    method = methods.lora()
    assert methods.with_adapter_dtype(method, "float32") is method


def test_another_dtype_is_an_error():
    text = "adapter_dtype: expected one of float32, bfloat16, got 'int8'"
    with pytest.raises(ValueError) as caught:
        methods.with_adapter_dtype(methods.lora(), "int8")
    assert str(caught.value) == text
