"""BERT and RoBERTa by what can be seen without another library; `test_parity.py` has transformers' numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import methods, tree
from lora_jax.models import bert

HF = dict(
    model_type="bert",
    num_hidden_layers=2,
    hidden_size=16,
    num_attention_heads=2,
    intermediate_size=32,
    vocab_size=50,
    max_position_embeddings=24,
    type_vocab_size=2,
    layer_norm_eps=1e-6,
    hidden_act="gelu",
    pad_token_id=1,
)
compiled = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # half the time to compile
hidden = compiled(bert.Encoder.hidden, static_argnames="queries")
logits = compiled(bert.Encoder.__call__, static_argnames="rate")


class TestConfig:
    def test_is_read_from_hugging_face_s(self, config):
        assert bert.Config.from_hf({**HF, "anything": "else"}) == config("bert")

    def test_roberta_counts_positions_from_its_padding(self, config):
        assert (config("bert").offset, config("roberta").offset) == (0, 2)

    @pytest.mark.parametrize(
        "change, text",
        [
            (
                {"hidden_act": "swish7"},
                "config.json: hidden_act is 'swish7', expected one of gelu, relu, ",
            ),
            (
                {"position_embedding_type": "relative_key"},
                "config.json: position_embedding_type is 'relative_key', expected 'absolute'",
            ),
            (
                {"num_attention_heads": 3},
                "config.json: hidden_size 16 is no multiple of num_attention_heads 3",
            ),
        ],
    )
    def test_what_it_cannot_do_is_told(self, change, text):
        with pytest.raises(ValueError) as caught:
            bert.Config.from_hf({**HF, **change})
        assert str(caught.value).startswith(text)

    def test_all_missing_fields_are_told(self):
        with pytest.raises(
            ValueError,
            match=r"expected the fields num_hidden_layers, .*; missing: hidden_size, vocab_size$",
        ):
            bert.Config.from_hf(
                {k: v for k, v in HF.items() if k not in ("vocab_size", "hidden_size")}
            )


class TestEncoder:
    @pytest.mark.parametrize("kind", ["bert", "roberta"])
    def test_what_follows_a_row_changes_nothing(self, kind, tiny, batch):
        model, real = tiny(kind), np.arange(16) < batch.length[:, None]
        other = np.where(real, batch.tokens, 33)
        a, b = (
            hidden(model, tokens, batch.segments, batch.length)
            for tokens in (batch.tokens, other)
        )
        np.testing.assert_array_equal(a[real], b[real])
        assert not np.array_equal(a[~real], b[~real])

    def test_rows_do_not_see_each_other(self, tiny, batch):
        alone = [
            logits(tiny(), batch.tokens[i : i + 1], None, batch.length[i : i + 1])
            for i in range(3)
        ]
        np.testing.assert_allclose(
            jnp.concatenate(alone),
            logits(tiny(), batch.tokens, None, batch.length)[:3],
            rtol=1e-5,
            atol=1e-6,
        )

    def test_segments_and_length_have_their_defaults(self, tiny, batch):
        full = np.full(8, 16)
        given = logits(tiny(), batch.tokens, np.zeros_like(batch.tokens), full)
        np.testing.assert_allclose(logits(tiny(), batch.tokens), given, rtol=1e-6)
        assert (
            np.abs(
                logits(tiny(), batch.tokens, np.ones_like(batch.tokens), full) - given
            ).max()
            > 1e-3
        )

    def test_the_first_query_alone_is_the_first_of_all(self, tiny, batch):
        every, first = (
            hidden(tiny(), batch.tokens, None, batch.length, queries=n)
            for n in (None, 1)
        )
        assert every.shape == (8, 16, 16) and first.shape == (8, 1, 16)
        np.testing.assert_allclose(first, every[:, :1], rtol=1e-5, atol=1e-6)

    def test_one_layer_is_enough(self, tiny):
        assert logits(tiny(layers=1, labels=2), np.ones((3, 4), np.int32)).shape == (
            3,
            2,
        )

    def test_dropout_needs_a_key_and_follows_it(self, tiny, batch):
        rows = batch.tokens, batch.segments, batch.length
        still = logits(tiny(), *rows, rate=0.3)
        np.testing.assert_allclose(still, logits(tiny(), *rows), rtol=1e-5, atol=1e-6)
        one, again, other = (
            logits(tiny(), *rows, rate=0.3, key=jax.random.key(seed))
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(one, again)
        assert np.abs(one - other).max() > 1e-3 < np.abs(one - still).max()

    def test_rows_longer_than_the_positions_are_refused(self, tiny):
        with pytest.raises(
            ValueError,
            match=r"expected rows of at most 22 tokens, the model's positions; got 23",
        ):
            tiny("roberta")(np.ones((1, 23), np.int32))


class TestInit:
    def test_shapes_and_names(self, config):
        def paths(kind):
            model = jax.eval_shape(
                lambda key: bert.init(key, config(kind), labels=3), jax.random.key(0)
            )
            return {path: leaf.shape for path, leaf in tree.leaves(model).items()}

        assert paths("bert")["blocks/mlp/up/kernel"] == (2, 16, 32)
        assert paths("bert").items() - paths("roberta").items() == {
            ("pooler/kernel", (16, 16)),
            ("pooler/bias", (16,)),
            ("head/kernel", (16, 3)),
            ("head/bias", (3,)),
        }
        assert {path for path in paths("roberta") if path.startswith("head")} == {
            "head/dense/kernel",
            "head/dense/bias",
            "head/output/kernel",
            "head/output/bias",
        }

    def test_roberta_base_has_the_papers_trainable_parameters(self, config):
        shape = dict(
            layers=12,
            width=768,
            heads=12,
            ffn=3072,
            vocabulary=50265,
            max_positions=514,
            segments=1,
        )
        base = jax.eval_shape(
            lambda key: bert.init(key, config("roberta", **shape), labels=2),
            jax.random.key(0),
        )
        assert (
            sum(methods.counts(base, methods.full())) == 124_647_170
        )  # as transformers counts
        assert {
            path: layer.kernel.shape
            for path, layer in methods.targets(base, "query,value").items()
        } == {
            f"blocks/attention/{name}": (12, 768, 768) for name in ("query", "value")
        }  # r = 8: 2 · 12 · 768 · 8 · 2 = 294,912, Table 2's 0.3 M

    def test_matrices_are_as_the_families_were_initialised(self, config):
        model = compiled(partial(bert.init, config=config("bert", ffn=512), labels=3))(
            jax.random.key(0)
        )
        assert float(model.blocks.mlp.up.kernel[...].std()) == pytest.approx(
            0.02, rel=0.05
        )
        leaves = tree.leaves(model)
        assert not any(
            leaf.any() for path, leaf in leaves.items() if path.endswith("bias")
        )
        assert all(
            (leaf == 1).all() for path, leaf in leaves.items() if path.endswith("scale")
        )
