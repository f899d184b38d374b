"""BERT and RoBERTa, by what can be seen without another library.

tests/parity/test_peft.py has transformers' numbers.
"""

from functools import partial

import jax
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
hidden = jax.jit(bert.Encoder.hidden, static_argnames="queries")
logits = jax.jit(bert.Encoder.__call__, static_argnames="rate")


class TestConfig:
    def test_is_read_from_hugging_face_s(self, config):
        assert bert.Config.from_hf({**HF, "anything": "else"}) == config("bert")

    def test_roberta_counts_positions_from_its_padding(self, config):
        assert config("bert").offset == 0
        assert config("roberta").offset == 2

    @pytest.mark.parametrize(
        "change, text",
        [
            (
                {"hidden_act": "swish7"},
                "hidden_act is 'swish7', expected one of gelu, relu, ",
            ),
            (
                {"position_embedding_type": "relative_key"},
                "position_embedding_type is 'relative_key', expected absolute",
            ),
            (
                {"is_decoder": True, "add_cross_attention": True},
                "add_cross_attention is True, expected False; "
                "is_decoder is True, expected False",
            ),
            (
                {"pruned_heads": {"0": [1]}},
                "pruned_heads is {'0': [1]}, expected {}",
            ),
            (
                {"num_attention_heads": 3},
                "hidden_size 16 is no multiple of num_attention_heads 3",
            ),
            (
                {"num_attention_heads": 3, "position_embedding_type": "relative_key"},
                "position_embedding_type is 'relative_key', expected absolute; "
                "hidden_size 16 is no multiple of num_attention_heads 3",
            ),
        ],
    )
    def test_what_it_cannot_do_is_rejected(self, change, text):
        with pytest.raises(ValueError) as caught:
            bert.Config.from_hf({**HF, **change})
        assert str(caught.value).startswith(f"config.json: {text}")

    def test_all_missing_fields_are_listed(self):
        config = dict(HF)
        del config["vocab_size"], config["hidden_size"]
        message = (
            "expected the fields num_hidden_layers, .*; "
            "missing: hidden_size, vocab_size$"
        )
        with pytest.raises(ValueError, match=message):
            bert.Config.from_hf(config)


class TestEncoder:
    @pytest.mark.parametrize("kind", ["bert", "roberta"])
    def test_what_follows_a_row_changes_nothing(self, kind, tiny, batch):
        model = tiny(kind)
        is_real = np.arange(16) < batch.length[:, None]
        other = np.where(is_real, batch.tokens, 33)
        before = hidden(model, batch.tokens, batch.segments, batch.length)
        after = hidden(model, other, batch.segments, batch.length)
        np.testing.assert_array_equal(before[is_real], after[is_real])
        assert not np.array_equal(before[~is_real], after[~is_real])

    def test_rows_do_not_see_each_other(self, tiny, batch):
        together = logits(tiny(), batch.tokens, None, batch.length)
        for row in range(3):
            only = slice(row, row + 1)
            alone = logits(tiny(), batch.tokens[only], None, batch.length[only])
            np.testing.assert_allclose(alone, together[only], rtol=1e-5, atol=1e-6)

    def test_segments_and_length_have_their_defaults(self, tiny, batch):
        tokens = batch.tokens
        full = np.full(8, 16)
        explicit = logits(tiny(), tokens, np.zeros_like(tokens), full)
        np.testing.assert_allclose(logits(tiny(), tokens), explicit, rtol=1e-6)
        second = logits(tiny(), tokens, np.ones_like(tokens), full)
        assert np.abs(second - explicit).max() > 1e-3

    def test_the_first_query_alone_is_the_first_of_all(self, tiny, batch):
        rows = tiny(), batch.tokens, None, batch.length
        states = hidden(*rows)
        first = hidden(*rows, queries=1)
        assert states.shape == (8, 16, 16)
        assert first.shape == (8, 1, 16)
        np.testing.assert_allclose(first, states[:, :1], rtol=1e-5, atol=1e-6)

    def test_one_layer_is_enough(self, tiny):
        model = tiny(layers=1, labels=2)
        assert logits(model, np.ones((3, 4), np.int32)).shape == (3, 2)

    def test_dropout_needs_a_key_and_follows_it(self, tiny, batch):
        rows = tiny(), batch.tokens, batch.segments, batch.length
        plain = logits(*rows)
        without_key = logits(*rows, rate=0.3)
        np.testing.assert_allclose(without_key, plain, rtol=1e-5, atol=1e-6)

        first = logits(*rows, rate=0.3, key=jax.random.key(0))
        again = logits(*rows, rate=0.3, key=jax.random.key(0))
        other = logits(*rows, rate=0.3, key=jax.random.key(1))
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 1e-3
        assert np.abs(first - plain).max() > 1e-3

    def test_rows_longer_than_the_positions_are_rejected(self, tiny):
        message = "expected rows of at most 22 tokens, the model's positions; got 23"
        with pytest.raises(ValueError, match=message):
            tiny("roberta")(np.ones((1, 23), np.int32))


class TestInit:
    def test_shapes_and_names(self, config):
        def shapes(kind):
            init = partial(bert.init, config=config(kind), labels=3)
            leaves = tree.leaves(jax.eval_shape(init, jax.random.key(0)))
            return {path: leaf.shape for path, leaf in leaves.items()}

        bert_shapes, roberta_shapes = shapes("bert"), shapes("roberta")
        assert bert_shapes["blocks/mlp/up/kernel"] == (2, 16, 32)
        assert bert_shapes.items() - roberta_shapes.items() == {
            ("pooler/kernel", (16, 16)),
            ("pooler/bias", (16,)),
            ("head/kernel", (16, 3)),
            ("head/bias", (3,)),
        }
        assert roberta_shapes.keys() - bert_shapes.keys() == {
            "head/dense/kernel",
            "head/dense/bias",
            "head/output/kernel",
            "head/output/bias",
        }

    def test_roberta_base_has_the_papers_trainable_parameters(self, config):
        base_config = config(
            "roberta",
            layers=12,
            width=768,
            heads=12,
            ffn=3072,
            vocabulary=50265,
            max_positions=514,
            segments=1,
        )
        init = partial(bert.init, config=base_config, labels=2)
        base = jax.eval_shape(init, jax.random.key(0))
        # As transformers counts.
        assert sum(methods.counts(base, methods.full())) == 124_647_170
        # r = 8: 2 · 12 · 768 · 8 · 2 = 294,912, Table 2's 0.3 M.
        layers = methods.targets(base, "query,value")
        assert layers.keys() == {"blocks/attention/query", "blocks/attention/value"}
        for layer in layers.values():
            assert layer.kernel.shape == (12, 768, 768)

    def test_matrices_are_as_the_families_were_initialized(self, config):
        init = partial(bert.init, config=config("bert", ffn=512), labels=3)
        leaves = tree.leaves(jax.jit(init)(jax.random.key(0)))
        up = leaves["blocks/mlp/up/kernel"]
        assert float(up.std()) == pytest.approx(0.02, rel=0.05)
        for path, leaf in leaves.items():
            if path.endswith("bias"):
                assert not leaf.any(), path
            if path.endswith("scale"):
                assert (leaf == 1).all(), path
