"""GPT-2: what can be seen by hand, its checkpoints, its sizes, and transformers' numbers."""

import functools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from lora_jax import methods, tree
from lora_jax.checkpoints import placement, safetensors
from lora_jax.models import gpt2
from lora_jax.nn.blocks import UNROLL

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
CONFIG = gpt2.Config(
    layers=2,
    width=16,
    heads=2,
    ffn=64,
    vocabulary=50,
    max_positions=24,
    epsilon=1e-5,
    activation="gelu_new",
)
MEDIUM = CONFIG._replace(
    layers=24, width=1024, heads=16, ffn=4096, vocabulary=50257, max_positions=1024
)
LARGE = MEDIUM._replace(layers=36, width=1280, heads=20, ffn=5120)
GPT3 = MEDIUM._replace(layers=96, width=12288, heads=96, ffn=49152, max_positions=2048)
FULL, LENGTH = np.full(3, 10), np.array([4, 10, 1])  # real tokens of the three rows
compiled = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # half the time to compile
logits = compiled(gpt2.Decoder.__call__, static_argnames="rate")


def abstract(config: gpt2.Config) -> Any:
    return jax.eval_shape(partial(gpt2.init, config=config), jax.random.key(0))


@functools.cache
def tiny() -> gpt2.Decoder:
    """Every leaf is N(0, 0.3²), or so around 1."""
    rng, shapes = np.random.default_rng(0), abstract(CONFIG)
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


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 50, (3, 10)).astype(np.int32)


def adapted(base: gpt2.Decoder, targets: str, *, dropout: float = 0.0) -> Any:
    """The model with adapters of which every number counts."""
    model = methods.lora(targets, 4, 8.0, dropout=dropout).adapt(
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


def error(got: Any, wanted: Any) -> float:
    """max |got - wanted| / max |wanted|."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


class TestConfig:
    def test_is_read_from_hugging_face_s(self):
        assert gpt2.Config.from_hf({**HF, "anything": "else"}) == CONFIG
        assert (
            gpt2.Config.from_hf({**HF, "n_inner": None, "tie_word_embeddings": True})
            == CONFIG
        )
        assert gpt2.Config.from_hf({**HF, "n_inner": 24}).ffn == 24

    @pytest.mark.parametrize(
        "change, text",
        [
            (
                {"activation_function": "swish7"},
                "activation_function is 'swish7', expected one of gelu, relu, gelu_new, ",
            ),
            ({"n_head": 3}, "n_embd 16 is no multiple of n_head 3"),
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
                "add_cross_attention is True, expected False; tie_word_embeddings is False, expected True; n_embd 16 is no ",
            ),
        ],
    )
    def test_what_it_cannot_do_is_told(self, change, text):
        with pytest.raises(ValueError) as caught:
            gpt2.Config.from_hf({**HF, **change})
        assert str(caught.value).startswith(f"config.json: {text}")

    def test_all_missing_fields_are_told(self):
        for end, said in (
            ("</s>", "'</s>'"),
            ([1, "2"], r"\[1, '2'\]"),
            (True, "True"),
        ):
            with pytest.raises(
                ValueError,
                match=f"eos_token_id: expected a token id or a list of them, got {said}",
            ):
                gpt2.Config.from_hf({**HF, "eos_token_id": end})
        with pytest.raises(
            ValueError,
            match="n_layer is '2', expected a whole number above 0; n_positions is 0, expected",
        ):
            gpt2.Config.from_hf({**HF, "n_layer": "2", "n_positions": 0})
        with pytest.raises(
            ValueError,
            match=r"expected the fields n_layer, .*; missing: n_embd, vocab_size$",
        ):
            gpt2.Config.from_hf(
                {k: v for k, v in HF.items() if k not in ("vocab_size", "n_embd")}
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
        assert np.abs(a - b)[changed].max() > 1e-3
        assert (
            np.abs(logits(tiny(), tokens, FULL) - logits(tiny(), other, FULL))[
                0, 5:
            ].max()
            > 1e-3
        )  # were it real

    def test_a_row_alone_is_the_row_in_a_batch(self, tokens):
        alone = logits(tiny(), tokens[:1, :4])
        np.testing.assert_allclose(
            alone, logits(tiny(), tokens, LENGTH)[:1, :4], rtol=1e-5, atol=1e-5
        )

    def test_dropout_needs_a_key_and_follows_it(self, tokens):
        still = logits(tiny(), tokens, FULL, rate=0.3)
        np.testing.assert_allclose(
            still, logits(tiny(), tokens, FULL), rtol=1e-5, atol=1e-5
        )
        one, again, other = (
            logits(tiny(), tokens, FULL, rate=0.3, key=jax.random.key(seed))
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(one, again)
        assert np.abs(one - other).max() > 1e-3 < np.abs(one - still).max()

    def test_rows_longer_than_the_positions_are_refused(self):
        with pytest.raises(
            ValueError,
            match=r"expected rows of at most 24 tokens, the model's positions; got 25",
        ):
            tiny()(np.ones((1, 25), np.int32))

    def test_logits_are_float32_of_a_bfloat16_model_too(self, tokens):
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny())
        got, wanted = logits(half, tokens, FULL), logits(tiny(), tokens, FULL)
        assert got.dtype == jnp.float32
        assert 1e-4 < error(got, wanted) < 0.1


class TestAdapters:
    def test_merging_keeps_the_function(self, tokens):
        model = adapted(tiny(), "query,key,value,output,up,down,tokens,positions")
        merged = methods.merge(model)
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

    def test_every_linear_layer_gets_its_key(self, tokens):
        model = adapted(tiny(), "query,key,value,output,up,down", dropout=0.5)
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


class TestSizes:
    @pytest.mark.parametrize(
        "config, count",
        [(MEDIUM, 354_823_168), (LARGE, 774_030_080), (GPT3, 174_604_259_328)],
    )
    def test_parameters_as_published(
        self, config, count
    ):  # GPT-3: 350 GB in half precision, if anything were allocated
        assert tree.count(abstract(config)) == count

    def test_lora_at_gpt_3(self):
        layers = methods.targets(abstract(GPT3), "query,value")
        assert {path: layer.kernel.shape for path, layer in layers.items()} == {
            f"blocks/attention/{name}": (96, 12288, 12288)
            for name in ("query", "value")
        }  # r = 4: 2 · 96 · (12288 + 12288) · 4 = 18,874,368, Table 15's 18.8 M

    def test_weights_are_as_the_family_was_initialised(self):
        model = compiled(partial(gpt2.init, config=CONFIG._replace(ffn=512)))(
            jax.random.key(0)
        )
        leaves = tree.leaves(model)
        assert float(leaves["blocks/mlp/up/kernel"].std()) == pytest.approx(
            0.02, rel=0.05
        )
        assert float(leaves["blocks/mlp/down/kernel"].std()) == pytest.approx(
            0.01, rel=0.05
        )  # 0.02 / sqrt(2 · 2)
        assert not any(
            leaf.any() for path, leaf in leaves.items() if path.endswith("bias")
        )
        assert all(
            (leaf == 1).all() for path, leaf in leaves.items() if path.endswith("scale")
        )


def checkpoint(prefix: str = "") -> dict[str, np.ndarray]:
    """Hugging Face's names and shapes, each number another."""
    d, f = 16, 64
    shapes = {
        "wte.weight": (50, d),
        "wpe.weight": (24, d),
        "ln_f.weight": (d,),
        "ln_f.bias": (d,),
    }
    for name, i, o in [
        ("attn.c_attn", d, 3 * d),
        ("attn.c_proj", d, d),
        ("mlp.c_fc", d, f),
        ("mlp.c_proj", f, d),
    ]:
        for layer in range(2):
            shapes |= {
                f"h.{layer}.{name}.weight": (i, o),
                f"h.{layer}.{name}.bias": (o,),
            }
    shapes |= {
        f"h.{n}.ln_{i}.{leaf}": (d,)
        for n in range(2)
        for i in (1, 2)
        for leaf in ("weight", "bias")
    }
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    return {
        prefix + name: np.arange(end - np.prod(shape), end, dtype=np.float32).reshape(
            shape
        )
        for (name, shape), end in zip(shapes.items(), ends, strict=True)
    }


def load(source: Any, config: gpt2.Config = CONFIG) -> dict[str, np.ndarray]:
    return placement.load(
        safetensors.tensors(source),
        gpt2.rules(config),
        tree.leaves(abstract(config)),
        ignore=gpt2.IGNORE,
    )


class TestCheckpoint:
    @pytest.mark.parametrize("prefix", ["", "transformer."])
    def test_every_tensor_lands_where_it_belongs(self, prefix):
        arrays = checkpoint(prefix)
        buffers = {
            f"{prefix}h.0.attn.bias": np.ones((1, 1, 24, 24)),
            f"{prefix}h.1.attn.masked_bias": np.ones(()),
        }
        loaded = load(
            save(arrays | buffers | {"lm_head.weight": arrays[prefix + "wte.weight"]})
        )
        assert loaded.keys() == tree.leaves(abstract(CONFIG)).keys()
        for layer in range(2):
            fused, bias = (
                arrays[f"{prefix}h.{layer}.attn.c_attn.{leaf}"]
                for leaf in ("weight", "bias")
            )
            for index, name in enumerate(("query", "key", "value")):
                columns = slice(16 * index, 16 * index + 16)
                np.testing.assert_array_equal(
                    loaded[f"blocks/attention/{name}/kernel"][layer], fused[:, columns]
                )
                np.testing.assert_array_equal(
                    loaded[f"blocks/attention/{name}/bias"][layer], bias[columns]
                )
            for ours, theirs in [
                ("attention/output/kernel", "attn.c_proj.weight"),
                ("attention_norm/scale", "ln_1.weight"),
                ("mlp_norm/bias", "ln_2.bias"),
                ("mlp/up/kernel", "mlp.c_fc.weight"),
                ("mlp/down/bias", "mlp.c_proj.bias"),
            ]:
                np.testing.assert_array_equal(
                    loaded[f"blocks/{ours}"][layer],
                    arrays[f"{prefix}h.{layer}.{theirs}"],
                )
        for ours, theirs in [
            ("embed/tokens/embedding", "wte.weight"),
            ("norm/scale", "ln_f.weight"),
        ]:
            np.testing.assert_array_equal(loaded[ours], arrays[prefix + theirs])

    def test_what_is_missing_and_what_is_too_much_is_told_at_once(self):
        arrays = checkpoint() | {
            "h.2.ln_1.bias": np.zeros(16),
            "h.0.crossattention.q_attn.bias": np.zeros(16),
        }
        del arrays["h.1.attn.c_attn.bias"], arrays["wpe.weight"]
        with pytest.raises(
            ValueError, match="the checkpoint does not fit the model:"
        ) as caught:
            load(save(arrays))
        said = str(caught.value)
        assert (
            "\nmissing (4):" in said
            and "\n  embed/positions/embedding (24, 16)" in said
        )
        assert all(
            f"\n  blocks/attention/{n}/bias (2, 16): layers 1" in said
            for n in ("query", "key", "value")
        )
        assert (
            "\nunexpected (2):\n  h.0.crossattention.q_attn.bias (16,) in bytes: no rule takes it"
            in said
        )
        assert (
            "\n  h.2.ln_1.bias (16,) in bytes: blocks/attention_norm/bias has layers 0 to 1"
            in said
        )


def peer(
    folder: Path, kind: str = "GPT2LMHeadModel", **changes: Any
) -> tuple[Any, gpt2.Decoder]:
    """transformers' model, every parameter drawn at random, and ours of its files."""
    torch, transformers = (
        pytest.importorskip("torch"),
        pytest.importorskip("transformers"),
    )
    torch.manual_seed(0)
    theirs = getattr(transformers, kind)(
        transformers.GPT2Config(**{**HF, **changes})
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(float("ln_" in name and name.endswith("weight")), 0.3)
    theirs.save_pretrained(folder)
    config = gpt2.Config.from_hf(theirs.config.to_dict())
    return theirs, tree.replace(
        abstract(config),
        {p: jnp.asarray(leaf) for p, leaf in load(folder, config).items()},
    )


def output(theirs: Any, tokens: np.ndarray, length: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    real = torch.tensor(np.arange(tokens.shape[1]) < length[:, None]).long()
    with torch.no_grad():
        return theirs(input_ids=torch.tensor(tokens).long(), attention_mask=real)[
            0
        ].numpy()


class TestTransformers:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            dict(activation_function="relu", n_inner=24),
            dict(n_layer=UNROLL + 1, n_head=4),
        ],
    )
    def test_logits(self, changes, tokens, tmp_path):
        theirs, model = peer(tmp_path, **changes)
        real = np.arange(10) < LENGTH[:, None]
        got, wanted = logits(model, tokens, LENGTH), output(theirs, tokens, LENGTH)
        assert got.shape == (3, 10, 50)
        assert error(got[real], wanted[real]) < 1e-4

    def test_hidden_states_of_a_headless_checkpoint(self, tokens, tmp_path):
        theirs, model = peer(tmp_path, "GPT2Model")
        assert error(model.hidden(tokens), output(theirs, tokens, FULL)) < 1e-4

    def test_lora_on_query_and_value_changes_those_columns_of_c_attn(
        self, tokens, tmp_path
    ):
        torch = pytest.importorskip("torch")
        theirs, base = peer(tmp_path)
        model = adapted(base, "query,value")
        for name, start in (("query", 0), ("value", 32)):
            a, b = (
                np.asarray(tree.leaves(model)[f"blocks/attention/{name}/lora_{side}"])
                for side in "ab"
            )
            for layer, block in enumerate(theirs.transformer.h):
                with torch.no_grad():
                    block.attn.c_attn.weight[:, start : start + 16] += torch.tensor(
                        8 / 4 * a[layer] @ b[layer]
                    )
        wanted = output(theirs, tokens, FULL)
        assert error(logits(base, tokens, FULL), wanted) > 0.01
        for same in (model, methods.merge(model)):
            assert error(logits(same, tokens, FULL), wanted) < 1e-4
