"""GPT-2: its configuration, adapters, sizes and checkpoints.

tests/parity/test_gpt2.py has transformers' numbers.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from lora_jax import methods, tree
from lora_jax.checkpoints import placement, safetensors
from lora_jax.models import gpt2
from tests.models.small_decoders import (
    FULL,
    GPT2,
    error,
    logits,
    numbered,
    shapes,
    small_gpt2,
    token_rows,
    with_adapters,
)

HF = dict(
    model_type="gpt2",
    n_layer=2,
    n_embd=16,
    n_head=2,
    vocab_size=50,
    n_positions=24,
    layer_norm_epsilon=1e-5,
    activation_function="gelu_new",
)
MEDIUM = GPT2._replace(
    layers=24,
    width=1024,
    heads=16,
    ffn=4096,
    vocabulary=50257,
    max_positions=1024,
)
LARGE = MEDIUM._replace(layers=36, width=1280, heads=20, ffn=5120)
GPT3 = MEDIUM._replace(
    layers=96,
    width=12288,
    heads=96,
    ffn=49152,
    max_positions=2048,
)


class TestConfig:
    def test_is_read_from_hugging_face_s(self):
        assert gpt2.Config.from_hf({**HF, "anything": "else"}) == GPT2
        defaults = {"n_inner": None, "tie_word_embeddings": True}
        assert gpt2.Config.from_hf({**HF, **defaults}) == GPT2
        assert gpt2.Config.from_hf({**HF, "n_inner": 24}).ffn == 24

    @pytest.mark.parametrize(
        "change, text",
        [
            (
                {"activation_function": "swish7"},
                "activation_function is 'swish7', expected one of gelu, relu, ",
            ),
            ({"n_head": 3}, "n_embd 16 is no multiple of n_head 3"),
            (
                {"hidden_size": 32, "num_hidden_layers": 2},
                "n_embd is 16 and hidden_size is 32, expected one number",
            ),
            (
                {"scale_attn_weights": False},
                "scale_attn_weights is False, expected True",
            ),
            (
                {
                    "tie_word_embeddings": False,
                    "add_cross_attention": True,
                    "n_head": 5,
                },
                "add_cross_attention is True, expected False; "
                "tie_word_embeddings is False, expected True; n_embd 16 is no ",
            ),
        ],
    )
    def test_what_it_cannot_do_is_rejected(self, change, text):
        with pytest.raises(ValueError) as caught:
            gpt2.Config.from_hf({**HF, **change})
        assert str(caught.value).startswith(f"config.json: {text}")

    @pytest.mark.parametrize(
        "value, text",
        [("</s>", "'</s>'"), ([1, "2"], r"\[1, '2'\]"), (True, "True")],
    )
    def test_end_tokens_are_token_ids(self, value, text):
        message = f"eos_token_id: expected a token id or a list of them, got {text}"
        with pytest.raises(ValueError, match=message):
            gpt2.Config.from_hf({**HF, "eos_token_id": value})

    def test_all_fields_of_another_kind_are_listed(self):
        message = (
            "n_layer is '2', expected a whole number above 0; "
            "n_positions is 0, expected"
        )
        with pytest.raises(ValueError, match=message):
            gpt2.Config.from_hf({**HF, "n_layer": "2", "n_positions": 0})

    def test_all_missing_fields_are_listed(self):
        config = dict(HF)
        del config["vocab_size"], config["n_embd"]
        message = r"expected the fields n_layer, .*; missing: n_embd, vocab_size$"
        with pytest.raises(ValueError, match=message):
            gpt2.Config.from_hf(config)


class TestAdapters:
    def test_merging_keeps_the_function(self):
        targets = "query,key,value,output,up,down,tokens,positions"
        model = with_adapters(small_gpt2(), targets)
        merged = methods.merge(model)
        expected = logits(merged, token_rows(), FULL)
        assert error(logits(model, token_rows(), FULL), expected) < 1e-4
        # Each adapter has its share in that.
        for path, layer in methods.adapters(model).items():
            without = tree.replace(merged, {path: layer.base})
            assert error(logits(without, token_rows(), FULL), expected) > 0.01, path

    def test_every_linear_layer_gets_its_key(self):
        targets = "query,key,value,output,up,down"
        model = with_adapters(small_gpt2(), targets, dropout=0.5)
        sides = tree.find(model, "lora_b$")
        zeros = {path: jnp.zeros_like(side) for path, side in sides.items()}
        # With all others zero, only this layer's dropout changes the logits.
        for path, side in sides.items():
            alone = tree.replace(model, zeros | {path: side})
            first = logits(alone, token_rows(), FULL, key=jax.random.key(0))
            second = logits(alone, token_rows(), FULL, key=jax.random.key(1))
            assert error(first, second) > 0.01, path


class TestSizes:
    @pytest.mark.parametrize(
        "config, count",
        [(MEDIUM, 354_823_168), (LARGE, 774_030_080), (GPT3, 174_604_259_328)],
    )
    def test_parameters_as_published(self, config, count):
        # GPT-3 would need 350 GB in half precision, if anything were allocated.
        assert tree.count(shapes(config)) == count

    def test_lora_at_gpt_3(self):
        """r = 4: 2 · 96 · (12288 + 12288) · 4 = 18,874,368, Table 15's 18.8 M."""
        layers = methods.targets(shapes(GPT3), "query,value")
        assert layers.keys() == {"blocks/attention/query", "blocks/attention/value"}
        for layer in layers.values():
            assert layer.kernel.shape == (96, 12288, 12288)

    def test_weights_are_as_the_family_was_initialized(self):
        config = GPT2._replace(ffn=512)
        model = jax.jit(partial(gpt2.init, config=config))(jax.random.key(0))
        leaves = tree.leaves(model)
        up = leaves["blocks/mlp/up/kernel"]
        down = leaves["blocks/mlp/down/kernel"]
        assert float(up.std()) == pytest.approx(0.02, rel=0.05)
        # 0.02 / sqrt(2 · 2)
        assert float(down.std()) == pytest.approx(0.01, rel=0.05)
        for path, leaf in leaves.items():
            if path.endswith("bias"):
                assert not leaf.any(), path
            if path.endswith("scale"):
                assert (leaf == 1).all(), path


def checkpoint(prefix: str = "") -> dict[str, np.ndarray]:
    """Hugging Face's names and shapes, each number another."""
    width, ffn = 16, 64
    linear = {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, ffn),
        "mlp.c_proj": (ffn, width),
    }
    tensor_shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (50, width),
        "wpe.weight": (24, width),
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
    }
    for layer in range(2):
        for name, (inputs, outputs) in linear.items():
            tensor_shapes[f"h.{layer}.{name}.weight"] = (inputs, outputs)
            tensor_shapes[f"h.{layer}.{name}.bias"] = (outputs,)
        for name in ("ln_1", "ln_2"):
            tensor_shapes[f"h.{layer}.{name}.weight"] = (width,)
            tensor_shapes[f"h.{layer}.{name}.bias"] = (width,)
    tensors = numbered(tensor_shapes)
    return {prefix + name: tensor for name, tensor in tensors.items()}


def load(source: Any, config: gpt2.Config = GPT2) -> dict[str, np.ndarray]:
    return placement.load(
        safetensors.tensors(source),
        gpt2.rules(config),
        tree.leaves(shapes(config)),
        ignore=gpt2.IGNORE,
    )


# Our path in a block -> Hugging Face's name in a layer.
NAMES = {
    "attention/output/kernel": "attn.c_proj.weight",
    "attention_norm/scale": "ln_1.weight",
    "mlp_norm/bias": "ln_2.bias",
    "mlp/up/kernel": "mlp.c_fc.weight",
    "mlp/down/bias": "mlp.c_proj.bias",
}


class TestCheckpoint:
    @pytest.mark.parametrize("prefix", ["", "transformer."])
    def test_every_tensor_lands_where_it_belongs(self, prefix):
        arrays = checkpoint(prefix)
        ignored = {
            f"{prefix}h.0.attn.bias": np.ones((1, 1, 24, 24)),
            f"{prefix}h.1.attn.masked_bias": np.ones(()),
            "lm_head.weight": arrays[prefix + "wte.weight"],
        }
        loaded = load(save(arrays | ignored))
        assert loaded.keys() == tree.leaves(shapes(GPT2)).keys()

        def check(path, layer, expected):
            leaf = loaded[path] if layer is None else loaded[f"blocks/{path}"][layer]
            np.testing.assert_array_equal(leaf, expected, err_msg=path)

        check("embed/tokens/embedding", None, arrays[f"{prefix}wte.weight"])
        check("norm/scale", None, arrays[f"{prefix}ln_f.weight"])
        for layer in range(2):
            for path, name in NAMES.items():
                check(path, layer, arrays[f"{prefix}h.{layer}.{name}"])
            weight = arrays[f"{prefix}h.{layer}.attn.c_attn.weight"]
            bias = arrays[f"{prefix}h.{layer}.attn.c_attn.bias"]
            for index, name in enumerate(("query", "key", "value")):
                columns = slice(16 * index, 16 * index + 16)
                check(f"attention/{name}/kernel", layer, weight[:, columns])
                check(f"attention/{name}/bias", layer, bias[columns])

    def test_missing_and_unexpected_tensors_are_listed_together(self):
        arrays = checkpoint()
        arrays["h.2.ln_1.bias"] = np.zeros(16)
        arrays["h.0.crossattention.q_attn.bias"] = np.zeros(16)
        del arrays["h.1.attn.c_attn.bias"], arrays["wpe.weight"]
        with pytest.raises(ValueError) as caught:
            load(save(arrays))
        message = str(caught.value)
        for part in [
            "the checkpoint does not fit the model:",
            "\nmissing (4):",
            "\n  embed/positions/embedding (24, 16)",
            "\n  blocks/attention/query/bias (2, 16): layers 1",
            "\n  blocks/attention/key/bias (2, 16): layers 1",
            "\n  blocks/attention/value/bias (2, 16): layers 1",
            "\nunexpected (2):\n  h.0.crossattention.q_attn.bias (16,) in bytes: "
            "no rule takes it",
            "\n  h.2.ln_1.bias (16,) in bytes: blocks/attention_norm/bias has "
            "layers 0 to 1",
        ]:
            assert part in message
