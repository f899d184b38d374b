"""The Llama family: its adapters, sizes and checkpoints.

tests/parity/test_llama.py has transformers' numbers.
"""

import types
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from lora_jax import methods, quant, tree
from lora_jax.checkpoints import placement, safetensors
from lora_jax.models import llama
from lora_jax.models.decoder import Decoder
from tests.models.small_decoders import (
    FULL,
    LLAMA,
    error,
    logits,
    numbered,
    shapes,
    small_llama,
    token_rows,
    with_adapters,
)


def test_order_counts_though_no_position_is_embedded():
    rows = np.array([[3, 5, 7], [5, 3, 7]])
    first, second = logits(small_llama(), rows, np.full(2, 3))[:, -1]
    assert np.abs(first - second).max() > 1e-3


class TestAdapters:
    ALL = "query,key,value,output,gate,up,down,tokens,lm_head"

    @pytest.mark.parametrize("tied, targets", [(False, ALL), (True, "tokens")])
    def test_merging_keeps_the_function(self, tied, targets):
        """Tied, the embedding's adapter is in the head, too."""
        model = with_adapters(small_llama(tie_embeddings=tied), targets)
        merged = jax.jit(methods.merge)(model)
        expected = logits(merged, token_rows(), FULL)
        assert error(logits(model, token_rows(), FULL), expected) < 1e-4
        # Each adapter has its share in that.
        for path, layer in methods.adapters(model).items():
            without = tree.replace(merged, {path: layer.base})
            assert error(logits(without, token_rows(), FULL), expected) > 0.01, path

    def test_every_layer_of_the_mlp_gets_its_key(self):
        model = with_adapters(small_llama(), "gate,up,down", dropout=0.5)
        sides = tree.find(model, "lora_b$")
        zeros = {path: jnp.zeros_like(side) for path, side in sides.items()}
        # With all others zero, only this layer's dropout changes the logits.
        for path, side in sides.items():
            alone = tree.replace(model, zeros | {path: side})
            first = logits(alone, token_rows(), FULL, key=jax.random.key(0))
            second = logits(alone, token_rows(), FULL, key=jax.random.key(1))
            assert error(first, second) > 0.01, path

    def test_the_head_of_a_quantized_table_is_the_table_with_its_adapter(self):
        table = quant.quantize(jax.random.normal(jax.random.key(0), (50, 64)), "int8")
        base = small_llama(tie_embeddings=True, width=64, head_dim=4)
        base = tree.replace(base, {"embed/tokens/embedding": table})
        model = with_adapters(base, "tokens")
        expected = (table.dequantize() + model.embed.tokens.delta()).T
        np.testing.assert_array_equal(model.head(), expected)

    def test_the_head_of_an_adapter_that_is_no_matrix_is_rejected(self):
        model = small_llama()
        wrapped = types.SimpleNamespace(base=model.lm_head)
        broken = Decoder(model.embed, model.blocks, model.norm, wrapped, config=LLAMA)
        message = "the head: expected an adapter that can be merged, got Simple"
        with pytest.raises(ValueError, match=message):
            broken.head()


class TestSizes:
    """The numbers of parameters that are published with the models."""

    SMOLLM2 = LLAMA._replace(
        layers=30,
        width=576,
        heads=9,
        kv_heads=3,
        head_dim=64,
        ffn=1536,
        vocabulary=49152,
        tie_embeddings=True,
    )
    LLAMA2_7B = LLAMA._replace(
        layers=32,
        width=4096,
        heads=32,
        kv_heads=32,
        head_dim=128,
        ffn=11008,
        vocabulary=32000,
    )
    LLAMA3_8B = LLAMA2_7B._replace(kv_heads=8, ffn=14336, vocabulary=128_256)
    MISTRAL_7B = LLAMA3_8B._replace(vocabulary=32000)
    QWEN2_05B = LLAMA._replace(
        layers=24,
        width=896,
        heads=14,
        kv_heads=2,
        head_dim=64,
        ffn=4864,
        vocabulary=151_936,
        tie_embeddings=True,
        biases=(True, False, False),
    )

    @pytest.mark.parametrize(
        "config, count",
        [
            (SMOLLM2, 134_515_008),
            (LLAMA2_7B, 6_738_415_616),
            (LLAMA3_8B, 8_030_261_248),
            (MISTRAL_7B, 7_241_732_096),
            (QWEN2_05B, 494_032_768),
        ],
    )
    def test_parameters_as_published(self, config, count):
        assert tree.count(shapes(config)) == count

    def test_weights_are_as_transformers_draws_them(self):
        config = LLAMA._replace(ffn=512, biases=(True, True, True))
        model = jax.jit(partial(llama.init, config=config))(jax.random.key(0))
        leaves = tree.leaves(model)
        for path in (
            "blocks/mlp/gate/kernel",
            "blocks/mlp/down/kernel",
            "lm_head/kernel",
            "embed/tokens/embedding",
        ):
            assert float(leaves[path].std()) == pytest.approx(0.02, rel=0.1), path
        for path, leaf in leaves.items():
            if path.endswith("bias"):
                assert not leaf.any(), path
            if path.endswith("scale"):
                assert (leaf == 1).all(), path


# Our path in a block -> Hugging Face's name in a layer.
NORMS = {
    "attention_norm/scale": "input_layernorm.weight",
    "mlp_norm/scale": "post_attention_layernorm.weight",
}
LINEAR = {
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/output": "self_attn.o_proj",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
}
LINEAR_SHAPES = {  # [out, in]
    "self_attn.q_proj": (16, 16),
    "self_attn.k_proj": (8, 16),
    "self_attn.v_proj": (8, 16),
    "self_attn.o_proj": (16, 16),
    "mlp.gate_proj": (24, 16),
    "mlp.up_proj": (24, 16),
    "mlp.down_proj": (16, 24),
}


def checkpoint(*, tied: bool = False, biases: bool = False) -> dict[str, np.ndarray]:
    """Hugging Face's names and shapes, each number another."""
    tensor_shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (50, 16),
        "model.norm.weight": (16,),
    }
    if not tied:
        tensor_shapes["lm_head.weight"] = (50, 16)
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        for name in NORMS.values():
            tensor_shapes[f"{prefix}.{name}"] = (16,)
        for name, shape in LINEAR_SHAPES.items():
            tensor_shapes[f"{prefix}.{name}.weight"] = shape
            if biases:
                tensor_shapes[f"{prefix}.{name}.bias"] = shape[:1]
    return numbered(tensor_shapes)


def load(source: Any, config: llama.Config = LLAMA) -> dict[str, np.ndarray]:
    return placement.load(
        safetensors.tensors(source),
        llama.rules(config),
        tree.leaves(shapes(config)),
        ignore=llama.IGNORE,
    )


class TestCheckpoint:
    @pytest.mark.parametrize("biases", [False, True])
    @pytest.mark.parametrize("tied", [False, True])
    def test_every_tensor_lands_where_it_belongs(self, tied, biases):
        config = LLAMA._replace(tie_embeddings=tied, biases=(biases,) * 3)
        arrays = checkpoint(tied=tied, biases=biases)
        ignored = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2)}
        if tied:
            ignored["lm_head.weight"] = arrays["model.embed_tokens.weight"]
        loaded = load(save(arrays | ignored), config)
        assert loaded.keys() == tree.leaves(shapes(config)).keys()

        names = dict(NORMS)
        for path, name in LINEAR.items():
            names[f"{path}/kernel"] = f"{name}.weight"
            if biases:
                names[f"{path}/bias"] = f"{name}.bias"
        block_paths = [path for path in loaded if path.startswith("blocks/")]
        assert len(block_paths) == len(names)
        for path, name in names.items():
            for layer in range(2):
                leaf = loaded[f"blocks/{path}"][layer]
                tensor = arrays[f"model.layers.{layer}.{name}"]
                np.testing.assert_array_equal(leaf, tensor.T, err_msg=path)

        tokens = loaded["embed/tokens/embedding"]
        np.testing.assert_array_equal(tokens, arrays["model.embed_tokens.weight"])
        np.testing.assert_array_equal(loaded["norm/scale"], arrays["model.norm.weight"])
        if not tied:
            head = loaded["lm_head/kernel"]
            np.testing.assert_array_equal(head, arrays["lm_head.weight"].T)

    def test_missing_and_unexpected_tensors_are_listed_together(self):
        arrays = checkpoint()
        arrays["model.layers.2.input_layernorm.weight"] = np.zeros(16)
        arrays["score.weight"] = np.zeros(16)
        arrays["model.layers.0.self_attn.q_proj.bias"] = np.zeros(16)
        del arrays["model.layers.1.mlp.gate_proj.weight"], arrays["lm_head.weight"]
        with pytest.raises(ValueError) as caught:
            load(save(arrays))
        message = str(caught.value)
        for part in [
            "the checkpoint does not fit the model:",
            "\nmissing (2):",
            "\n  lm_head/kernel (16, 50)",
            "\n  blocks/mlp/gate/kernel (2, 16, 24): layers 1",
            "\nunexpected (3):",
            "\n  score.weight (16,) in bytes: no rule takes it",
            "q_proj.bias (16,) in bytes: the model has no blocks/attention/query/bias",
            "input_layernorm.weight (16,) in bytes: blocks/attention_norm/scale has "
            "layers 0 to 1",
        ]:
            assert part in message
