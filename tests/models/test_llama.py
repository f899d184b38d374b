"""The Llama family: its settings, what can be seen by hand, its adapters, sizes and checkpoints."""

import functools
import math
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
from tests.models.test_gpt2 import compiled, error

HF = dict(
    model_type="llama",
    num_hidden_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=24,
    vocab_size=50,
    max_position_embeddings=24,
    rms_norm_eps=1e-5,
    hidden_act="silu",
)
CONFIG = llama.Config(
    layers=2,
    width=16,
    heads=4,
    kv_heads=2,
    head_dim=4,
    ffn=24,
    vocabulary=50,
    max_positions=24,
    epsilon=1e-5,
    activation="silu",
    rope_frequencies=(1.0, 0.01),
    biases=(False, False, False),
    tie_embeddings=False,
)
LLAMA3 = dict(
    rope_type="llama3", factor=4.0, low_freq_factor=2.0, high_freq_factor=18.0
)
FULL, LENGTH = np.full(3, 10), np.array([4, 10, 1])  # real tokens of the three rows
logits = compiled(Decoder.__call__)


def abstract(config: llama.Config) -> Any:
    return jax.eval_shape(partial(llama.init, config=config), jax.random.key(0))


@functools.cache
def tiny(**changes: Any) -> Decoder:
    """Every leaf is N(0, 0.3²), or so around 1."""
    rng, shapes = np.random.default_rng(0), abstract(CONFIG._replace(**changes))
    drawn = {
        path: 0.3 * rng.normal(size=leaf.shape)
        for path, leaf in tree.leaves(shapes).items()
    }
    return tree.replace(
        shapes,
        {
            path: jnp.float32(leaf + path.endswith("scale"))
            for path, leaf in drawn.items()
        },
    )


def adapted(base: Decoder, targets: str, *, dropout: float = 0.0) -> Any:
    """The model with adapters of which every number counts."""
    model = compiled(methods.lora(targets, 4, 8.0, dropout=dropout).adapt)(
        jax.random.key(0), base
    )
    rng = np.random.default_rng(2)
    leaves = tree.find(model, r"lora_[ab]$")
    return tree.replace(
        model,
        {
            path: jnp.float32(0.3 * rng.normal(size=leaf.shape))
            for path, leaf in leaves.items()
        },
    )


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 50, (3, 10)).astype(np.int32)


class TestConfig:
    def test_is_read_from_hugging_face_s(self):
        assert llama.Config.from_hf({**HF, "anything": "else"}) == CONFIG
        for name, value in [
            ("num_key_value_heads", None),
            ("head_dim", None),
            ("rope_scaling", None),
        ]:
            found = llama.Config.from_hf({**HF, name: value})
            assert found == CONFIG._replace(
                kv_heads=4 if name == "num_key_value_heads" else 2
            )
        found = llama.Config.from_hf(
            {**HF, "head_dim": 6, "tie_word_embeddings": True, "eos_token_id": 7}
        )
        assert (
            found.head_dim,
            len(found.rope_frequencies),
            found.tie_embeddings,
            found.eos_ids,
        ) == (
            6,
            3,
            True,
            (7,),
        )
        assert llama.Config.from_hf({**HF, "eos_token_id": [9, 8]}).eos_ids == (9, 8)

    @pytest.mark.parametrize(
        "change, biases",
        [
            ({}, (False, False, False)),
            ({"attention_bias": True}, (True, True, False)),
            ({"mlp_bias": True}, (False, False, True)),
            ({"model_type": "qwen2"}, (True, False, False)),
            ({"model_type": "qwen2", "attention_bias": False}, (False, False, False)),
        ],
    )
    def test_which_layers_have_biases(self, change, biases):
        config = llama.Config.from_hf({**HF, **change})
        assert config.biases == biases
        paths = tree.leaves(abstract(config))
        there = [
            f"blocks/{name}/bias" in paths
            for name in ("attention/value", "attention/output", "mlp/gate")
        ]
        assert tuple(there) == biases

    @pytest.mark.parametrize(
        "change, text",
        [
            (
                {"hidden_act": "swish7"},
                "hidden_act is 'swish7', expected one of gelu, relu, gelu_new, silu",
            ),
            (
                {"num_key_value_heads": 3},
                "num_attention_heads 4 is no multiple of num_key_value_heads 3",
            ),
            (
                {"hidden_size": 18},
                "hidden_size 18 is no multiple of num_attention_heads 4",
            ),
            (
                {"hidden_size": 12},
                "head_dim 3 is odd, and rotary embedding turns pairs",
            ),
            (
                {"partial_rotary_factor": 0.5},
                "partial_rotary_factor is 0.5, expected 1.0",
            ),
            (
                {"rope_parameters": {"partial_rotary_factor": 0.5}},
                "partial_rotary_factor is 0.5, expected 1.0",
            ),
            (
                {"rope_scaling": {"type": "yarn", "factor": 2.0}},
                "the rope_type of rope_scaling is 'yarn', expected one of default, linear, llama3",
            ),
            (
                {
                    "rope_scaling": {
                        "rope_type": "llama3",
                        "factor": 2.0,
                        "high_freq_factor": 4.0,
                    }
                },
                "rope_scaling is 'llama3' without low_freq_factor, original_max_position_embeddings",
            ),
            (
                {"rope_scaling": {"type": "linear"}},
                "rope_scaling is 'linear' without factor",
            ),
            (
                {"num_key_value_heads": 3, "head_dim": 5},
                "num_attention_heads 4 is no multiple of num_key_value_heads 3; head_dim 5 is odd, and rotary embedding turns "
                "pairs",
            ),
        ],
    )
    def test_what_it_cannot_do_is_told(self, change, text):
        with pytest.raises(ValueError) as caught:
            llama.Config.from_hf({**HF, **change})
        assert str(caught.value) == f"config.json: {text}"

    @pytest.mark.parametrize(
        "change",
        [
            {"model_type": "mistral", "sliding_window": None},
            {"model_type": "mistral", "sliding_window": 24},
            {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 8},
        ],
    )
    def test_a_window_that_hides_nothing_is_none(self, change):
        assert llama.Config.from_hf({**HF, **change, "attention_bias": False}) == CONFIG

    @pytest.mark.parametrize(
        "change",
        [
            {"model_type": "mistral", "sliding_window": 8},
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8},
        ],
    )
    def test_no_text_is_longer_than_a_window(self, change):
        assert llama.Config.from_hf(
            {**HF, **change, "attention_bias": False}
        ) == CONFIG._replace(max_positions=8)

    def test_fields_of_another_kind_are_told(self):
        strange = {
            "tie_word_embeddings": "false",
            "rope_theta": "10000",
            "rope_scaling": {"type": "linear", "factor": 0},
        }
        said = (
            "config.json: tie_word_embeddings is 'false', expected true or false; rope_theta is '10000', expected a number above "
            "0; factor is 0, expected a number above 0"
        )
        with pytest.raises(ValueError) as caught:
            llama.Config.from_hf({**HF, **strange})
        assert str(caught.value) == said

    def test_all_missing_fields_are_told(self):
        with pytest.raises(
            ValueError,
            match=r"expected the fields num_hidden_layers, .*; missing: hidden_size, vocab_size$",
        ):
            llama.Config.from_hf(
                {k: v for k, v in HF.items() if k not in ("vocab_size", "hidden_size")}
            )


class TestAngles:
    def angles(self, **change: Any) -> tuple[float, ...]:
        return llama.Config.from_hf({**HF, "head_dim": 8, **change}).rope_frequencies

    def test_plain(self):
        assert self.angles() == pytest.approx(
            (1, 0.1, 0.01, 0.001)
        )  # 10,000 ** (-2 j / 8)
        assert self.angles(rope_theta=16.0) == pytest.approx((1, 0.5, 0.25, 0.125))
        assert self.angles(rope_parameters={"rope_theta": 16.0}) == pytest.approx(
            (1, 0.5, 0.25, 0.125)
        )

    def test_linear(self):
        assert self.angles(
            rope_scaling={"type": "linear", "factor": 4.0}
        ) == pytest.approx((0.25, 0.025, 0.0025, 0.00025))

    def test_llama_3_1_by_hand(self):
        """Within 200 π tokens the pairs turn 100, 10, 1 and 0.1 times; from 2 to 18 turns there is a ramp, and 10 is half of it."""
        scaling = LLAMA3 | {"original_max_position_embeddings": 200 * math.pi}
        half = 0.1 * (0.5 + 0.5 / 4)
        assert self.angles(rope_scaling=scaling) == pytest.approx(
            (1, half, 0.01 / 4, 0.001 / 4)
        )

    def test_what_a_gguf_file_divides_by(self):
        assert self.angles(rope_factors=[1.0, 2.0, 4.0, 8.0]) == pytest.approx(
            (1, 0.05, 0.0025, 0.000125)
        )


class TestDecoder:
    def test_a_later_token_changes_no_earlier_logit(self, tokens):
        other = tokens.copy()
        other[:, 6] = (other[:, 6] + 1) % 50
        a, b = logits(tiny(), tokens, FULL), logits(tiny(), other, FULL)
        np.testing.assert_array_equal(a[:, :6], b[:, :6])
        assert (np.abs(a - b)[:, 6:].max(axis=-1) > 1e-3).all()

    def test_padding_is_seen_by_no_token(self, tokens):
        changed = np.zeros((3, 10), bool)
        changed[0, 4] = changed[2, 1] = True  # the first of the padding
        other = (tokens + changed) % 50
        a, b = (logits(tiny(), rows, LENGTH) for rows in (tokens, other))
        np.testing.assert_array_equal(
            a[~changed], b[~changed]
        )  # the rest of the padding included
        assert (
            np.abs(logits(tiny(), tokens, FULL) - logits(tiny(), other, FULL))[
                0, 5:
            ].max()
            > 1e-3
        )  # were it real

    def test_order_counts_though_no_position_is_embedded(self):
        rows = np.array([[3, 5, 7], [5, 3, 7]])
        first, second = logits(tiny(), rows, np.full(2, 3))[:, -1]
        assert np.abs(first - second).max() > 1e-3

    def test_rows_longer_than_the_positions_are_refused(self):
        with pytest.raises(
            ValueError,
            match=r"expected rows of at most 24 tokens, the model's positions; got 25",
        ):
            tiny()(np.ones((1, 25), np.int32))


class TestAdapters:
    EVERY = "query,key,value,output,gate,up,down,tokens,lm_head"

    @pytest.mark.parametrize("tied, targets", [(False, EVERY), (True, "tokens")])
    def test_merging_keeps_the_function(self, tokens, tied, targets):
        """Tied, the embedding's adapter is in the head, too."""
        model = adapted(tiny(tie_embeddings=tied), targets)
        merged = compiled(methods.merge)(model)
        wanted = logits(merged, tokens, FULL)
        assert error(logits(model, tokens, FULL), wanted) < 1e-4
        for path, layer in methods.adapters(
            model
        ).items():  # each has its share in that
            assert (
                error(
                    logits(tree.replace(merged, {path: layer.base}), tokens, FULL),
                    wanted,
                )
                > 0.01
            ), path

    def test_every_layer_of_the_mlp_gets_its_key(self, tokens):
        model = adapted(tiny(), "gate,up,down", dropout=0.5)
        sides = tree.find(model, "lora_b$")
        for (
            path,
            side,
        ) in sides.items():  # with all others zero, only this layer's dropout is seen
            alone = tree.replace(
                model,
                {p: side if p == path else jnp.zeros_like(b) for p, b in sides.items()},
            )
            one, other = (
                logits(alone, tokens, FULL, key=jax.random.key(seed)) for seed in (0, 1)
            )
            assert error(one, other) > 0.01, path

    def test_the_head_of_a_quantised_table_is_the_table_with_its_adapter(self):
        table = quant.quantize(jax.random.normal(jax.random.key(0), (50, 64)), "int8")
        model = tiny(tie_embeddings=True, width=64, head_dim=4)
        model = adapted(
            tree.replace(model, {"embed/tokens/embedding": table}), "tokens"
        )
        wanted = (table.dequantize() + model.embed.tokens.delta()).T
        np.testing.assert_array_equal(model.head(), wanted)

    def test_the_head_of_an_adapter_that_is_no_matrix_is_refused(self):
        model = tiny()
        wrapped = types.SimpleNamespace(base=model.lm_head)
        with pytest.raises(
            ValueError,
            match=r"^the head: expected an adapter that can be merged, got SimpleNamespace$",
        ):
            Decoder(
                model.embed, model.blocks, model.norm, wrapped, config=CONFIG
            ).head()


class TestSizes:
    """The numbers of parameters that are published with the models."""

    SMALL = CONFIG._replace(
        layers=30,
        width=576,
        heads=9,
        kv_heads=3,
        head_dim=64,
        ffn=1536,
        vocabulary=49152,
        tie_embeddings=True,
    )
    LLAMA2 = CONFIG._replace(
        layers=32,
        width=4096,
        heads=32,
        kv_heads=32,
        head_dim=128,
        ffn=11008,
        vocabulary=32000,
    )
    LLAMA3 = LLAMA2._replace(kv_heads=8, ffn=14336, vocabulary=128_256)
    QWEN2 = CONFIG._replace(
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
            (SMALL, 134_515_008),  # SmolLM2-135M
            (LLAMA2, 6_738_415_616),  # Llama 2 7B
            (LLAMA3, 8_030_261_248),  # Llama 3.1 8B
            (LLAMA3._replace(vocabulary=32000), 7_241_732_096),  # Mistral 7B
            (QWEN2, 494_032_768),  # Qwen2-0.5B
        ],
    )
    def test_parameters_as_published(self, config, count):
        assert tree.count(abstract(config)) == count

    def test_weights_are_as_transformers_draws_them(self):
        config = CONFIG._replace(ffn=512, biases=(True, True, True))
        leaves = tree.leaves(
            compiled(partial(llama.init, config=config))(jax.random.key(0))
        )
        for name in (
            "blocks/mlp/gate/kernel",
            "blocks/mlp/down/kernel",
            "lm_head/kernel",
            "embed/tokens/embedding",
        ):
            assert float(leaves[name].std()) == pytest.approx(0.02, rel=0.1), name
        assert not any(
            leaf.any() for path, leaf in leaves.items() if path.endswith("bias")
        )
        assert all(
            (leaf == 1).all() for path, leaf in leaves.items() if path.endswith("scale")
        )


def checkpoint(*, tied: bool = False, biases: bool = False) -> dict[str, np.ndarray]:
    """Hugging Face's names and shapes, each number another."""
    attention = {
        "self_attn.q_proj": (16, 16),
        "self_attn.k_proj": (8, 16),
        "self_attn.v_proj": (8, 16),
    }
    linear = attention | {"self_attn.o_proj": (16, 16)}
    linear |= {
        "mlp.gate_proj": (24, 16),
        "mlp.up_proj": (24, 16),
        "mlp.down_proj": (16, 24),
    }
    norms = dict.fromkeys(["input_layernorm", "post_attention_layernorm"], (16,))
    shapes = {
        f"model.layers.{n}.{name}.weight": shape
        for n in range(2)
        for name, shape in (linear | norms).items()
    }
    shapes |= {"model.embed_tokens.weight": (50, 16), "model.norm.weight": (16,)}
    if not tied:
        shapes["lm_head.weight"] = (50, 16)
    if biases:
        shapes |= {
            f"model.layers.{n}.{name}.bias": shape[:1]
            for n in range(2)
            for name, shape in linear.items()
        }
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    return {
        name: np.arange(end - np.prod(shape), end, dtype=np.float32).reshape(shape)
        for (name, shape), end in zip(shapes.items(), ends, strict=True)
    }


def load(source: Any, config: llama.Config = CONFIG) -> dict[str, np.ndarray]:
    return placement.load(
        safetensors.tensors(source),
        llama.rules(config),
        tree.leaves(abstract(config)),
        ignore=llama.IGNORE,
    )


NAMES = {
    "attention_norm/scale": "input_layernorm.weight",
    "attention/query/kernel": "self_attn.q_proj.weight",
    "attention/key/kernel": "self_attn.k_proj.weight",
    "attention/value/kernel": "self_attn.v_proj.weight",
    "attention/output/kernel": "self_attn.o_proj.weight",
    "mlp_norm/scale": "post_attention_layernorm.weight",
    "mlp/gate/kernel": "mlp.gate_proj.weight",
    "mlp/up/kernel": "mlp.up_proj.weight",
    "mlp/down/kernel": "mlp.down_proj.weight",
}


class TestCheckpoint:
    @pytest.mark.parametrize("biases", [False, True])
    @pytest.mark.parametrize("tied", [False, True])
    def test_every_tensor_lands_where_it_belongs(self, tied, biases):
        config, arrays = (
            CONFIG._replace(tie_embeddings=tied, biases=(biases,) * 3),
            checkpoint(tied=tied, biases=biases),
        )
        buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2)}
        again = {"lm_head.weight": arrays["model.embed_tokens.weight"]} if tied else {}
        loaded = load(save(arrays | buffers | again), config)
        assert loaded.keys() == tree.leaves(abstract(config)).keys()
        wanted = dict(NAMES)
        if biases:
            wanted |= {
                k.replace("kernel", "bias"): v.replace("weight", "bias")
                for k, v in wanted.items()
                if "/k" in k
            }
        assert len(wanted) == len(
            [path for path in loaded if path.startswith("blocks/")]
        )
        for ours, theirs in wanted.items():
            for layer in range(2):
                got, expected = (
                    loaded[f"blocks/{ours}"][layer],
                    arrays[f"model.layers.{layer}.{theirs}"],
                )
                np.testing.assert_array_equal(got, expected.T, err_msg=ours)
        np.testing.assert_array_equal(
            loaded["embed/tokens/embedding"], arrays["model.embed_tokens.weight"]
        )
        np.testing.assert_array_equal(loaded["norm/scale"], arrays["model.norm.weight"])
        if not tied:
            np.testing.assert_array_equal(
                loaded["lm_head/kernel"], arrays["lm_head.weight"].T
            )

    def test_what_is_missing_and_what_is_too_much_is_told_at_once(self):
        arrays = checkpoint() | {
            "model.layers.2.input_layernorm.weight": np.zeros(16),
            "score.weight": np.zeros(16),
        }
        arrays["model.layers.0.self_attn.q_proj.bias"] = np.zeros(16)
        del arrays["model.layers.1.mlp.gate_proj.weight"], arrays["lm_head.weight"]
        with pytest.raises(
            ValueError, match="the checkpoint does not fit the model:"
        ) as caught:
            load(save(arrays))
        said = str(caught.value)
        assert "\nmissing (2):" in said and "\n  lm_head/kernel (16, 50)" in said
        assert "\n  blocks/mlp/gate/kernel (2, 16, 24): layers 1" in said
        assert (
            "\nunexpected (3):" in said
            and "\n  score.weight (16,) in bytes: no rule takes it" in said
        )
        assert (
            "q_proj.bias (16,) in bytes: the model has no blocks/attention/query/bias"
            in said
        )
        assert (
            "input_layernorm.weight (16,) in bytes: blocks/attention_norm/scale has layers 0 to 1"
            in said
        )
