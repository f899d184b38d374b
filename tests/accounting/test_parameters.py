"""Parameter counts: by hand, against transformers' models without weights, and closed form against parameter tree."""

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import accounting, methods
from lora_jax.accounting import (
    Adapter,
    Architecture,
    BitFit,
    Both,
    FineTune,
    LoRA,
    Prefix,
    trainable_parameters,
)

TINY = Architecture(
    "tiny",
    "gpt2",
    layers=3,
    width=4,
    heads=2,
    ffn=10,
    vocabulary=7,
    max_positions=5,
    segments=0,
)
EVERY = pytest.mark.parametrize("name", accounting.ARCHITECTURES)


class TestByHand:
    def test_fine_tuning(self):
        attention, mlp, norms = 4 * (4 * 4 + 4), 4 * 10 + 10 + 10 * 4 + 4, 2 * (4 + 4)
        block = attention + mlp + norms
        assert trainable_parameters(FineTune(), TINY) == 7 * 4 + 5 * 4 + 3 * block + (
            4 + 4
        )
        assert trainable_parameters(FineTune(blocks=2), TINY) == 2 * block

    def test_bitfit(self):
        assert trainable_parameters(BitFit(), TINY) == 3 * (4 * 4 + 10 + 4 + 2 * 4) + 4

    def test_prefixes(self):
        assert trainable_parameters(Prefix(2, 1), TINY) == 3 * 4
        assert trainable_parameters(Prefix(2, 1, every_layer=True), TINY) == 3 * 3 * 4

    def test_adapters(self):
        bottleneck = 4 * 2 + 2 + 2 * 4 + 4
        assert trainable_parameters(Adapter(2), TINY) == 3 * 2 * bottleneck
        assert trainable_parameters(Adapter(2, per_block=1, norms=1), TINY) == 3 * (
            bottleneck + 4 + 4
        )
        assert (
            trainable_parameters(Adapter(2, per_block=1, blocks=2), TINY)
            == 2 * bottleneck
        )

    def test_lora(self):
        assert trainable_parameters(LoRA("value", 2), TINY) == 3 * (4 * 2 + 2 * 4)
        assert trainable_parameters(LoRA("query, up,down", 1), TINY) == 3 * (
            (4 + 4) + (4 + 10) + (10 + 4)
        )
        assert trainable_parameters(
            LoRA("query,query", 1), TINY
        ) == trainable_parameters(LoRA("query", 1), TINY)

    def test_two_methods_at_once(self):
        assert (
            trainable_parameters(Both(LoRA("value", 2), Prefix(2, 1)), TINY) == 48 + 12
        )

    def test_the_published_formula_of_gpt_3(self):
        assert (
            trainable_parameters(LoRA("query,value", 4), "gpt3-175b")
            == 2 * 2 * 96 * 12288 * 4
        )
        assert trainable_parameters(Adapter(1), "gpt3-175b") == 2 * 96 * (
            2 * 12288 + 1 + 12288
        )

    def test_roberta_s_pooler_is_part_of_the_pretrained_model_alone(self):
        pooler = 768 * 768 + 768
        assert (
            accounting.total_parameters("roberta-base")
            - trainable_parameters(FineTune(), "roberta-base")
            == pooler
        )


@pytest.fixture(scope="module")
def theirs():
    """transformers' parameters of an architecture, {name: count}, without head and without weights."""
    torch, transformers = (
        pytest.importorskip("torch"),
        pytest.importorskip("transformers"),
    )

    def counts(name):
        a = accounting.ARCHITECTURES[name]
        shape = dict(
            hidden_size=a.width,
            num_hidden_layers=a.layers,
            num_attention_heads=a.heads,
            intermediate_size=a.ffn,
            vocab_size=a.vocabulary,
            max_position_embeddings=a.max_positions,
            type_vocab_size=a.segments,
        )
        xxl = dict(
            relative_attention=True,
            position_buckets=a.max_positions // 2,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type="p2c|c2p",
            conv_kernel_size=3,
            conv_act="gelu",
            position_biased_input=False,
        )
        gpt2 = dict(
            n_embd=a.width,
            n_layer=a.layers,
            n_head=a.heads,
            n_inner=a.ffn,
            vocab_size=a.vocabulary,
            n_positions=a.max_positions,
        )
        family, given = {
            "bert": ("Bert", shape),
            "roberta": ("Roberta", shape),
            "deberta": ("DebertaV2", shape | xxl),
            "gpt2": ("GPT2", gpt2),
        }[a.family]
        with torch.device("meta"):
            model = getattr(transformers, f"{family}Model")(
                getattr(transformers, f"{family}Config")(**given)
            )
        return {path: parameter.numel() for path, parameter in model.named_parameters()}

    return counts


class TestAgainstTransformers:
    @EVERY
    def test_all_parameters(self, name, theirs):
        assert accounting.total_parameters(name) == sum(theirs(name).values())

    @EVERY
    def test_biases(self, name, theirs):
        skip = "pooler" if "roberta" in name else "\0"
        biases = sum(
            count
            for path, count in theirs(name).items()
            if path.endswith("bias") and skip not in path
        )
        assert trainable_parameters(BitFit(), name) == biases

    def test_the_top_two_blocks(self, theirs):
        blocks = {
            path: count
            for path, count in theirs("gpt2-medium").items()
            if path.startswith(("h.22.", "h.23."))
        }
        assert (
            trainable_parameters(FineTune(blocks=2), "gpt2-medium")
            == sum(blocks.values())
            == 25_192_448
        )


SIZES = st.builds(
    lambda family, heads, **sizes: Architecture(
        "drawn", family, width=4 * heads, heads=heads, **sizes
    ),
    st.sampled_from(["bert", "roberta", "gpt2"]),
    heads=st.integers(1, 4),
    layers=st.integers(2, 5),
    ffn=st.integers(4, 40),
    vocabulary=st.integers(1, 99),
    max_positions=st.integers(4, 40),
    segments=st.integers(1, 2),
).map(lambda a: a._replace(segments=0) if a.family == "gpt2" else a)
NAMES = ("query", "key", "value", "output", "up", "down")
LORAS = st.builds(
    LoRA, st.sets(st.sampled_from(NAMES), min_size=1).map(",".join), st.integers(1, 4)
)


class TestTree:
    @settings(max_examples=20, deadline=None)
    @given(SIZES, st.one_of(st.just(FineTune()), st.just(BitFit()), LORAS))
    def test_is_the_closed_form(self, architecture, method):
        assert accounting.tree_parameters(method, architecture) == trainable_parameters(
            method, architecture
        )

    @pytest.mark.parametrize(
        "name", [name for name in accounting.ARCHITECTURES if name != "deberta-v2-xxl"]
    )
    def test_is_the_closed_form_of_every_model_there_is(self, name):
        for method in (FineTune(), BitFit(), LoRA("query,value,up,down", 4)):
            assert accounting.tree_parameters(method, name) == trainable_parameters(
                method, name
            )

    def test_has_no_weights(self):
        before = sum(array.nbytes for array in jax.live_arrays())
        assert (
            accounting.tree_parameters(LoRA("query,key,value,output", 64), "gpt3-175b")
            == 603_979_776
        )
        assert sum(array.nbytes for array in jax.live_arrays()) <= before + 1000

    def test_is_what_an_adapted_model_says_it_learns(self, tiny):
        model, method = tiny("roberta", 3), methods.lora("query,up", 3)
        counted = methods.counts(method.adapt(jax.random.key(0), model), method)
        sizes = {name: getattr(model.config, name) for name in Architecture._fields[2:]}
        assert (
            accounting.tree_parameters(
                LoRA("query,up", 3), Architecture("tiny", "roberta", **sizes)
            )
            == counted.adapter
        )
        assert counted.head == 16 * 16 + 16 + 16 * 3 + 3  # which is not in it

    def test_is_none_without_the_model_or_the_method(self):
        assert accounting.tree_parameters(LoRA(), "deberta-v2-xxl") is None
        for method in (
            Adapter(1),
            Prefix(1),
            FineTune(blocks=2),
            Both(LoRA(), Prefix(1)),
        ):
            assert accounting.tree_parameters(method, "gpt2") is None


class TestBudget:
    @given(
        st.integers(1, 10**6), st.sets(st.sampled_from(NAMES), min_size=1).map(",".join)
    )
    def test_is_used_as_far_as_it_goes(self, extra, targets):
        one = trainable_parameters(LoRA(targets, 1), "minilm-l6")
        budget = one + extra
        rank, used, left = accounting.rank_for(budget, "minilm-l6", targets)
        assert (
            used == trainable_parameters(LoRA(targets, rank), "minilm-l6")
            and used + left == budget
        )
        assert 0 <= left < one or rank == 384

    @pytest.mark.parametrize(
        ("targets", "rank"),
        [("query", 8), ("query,value", 4), ("query,key,value,output", 2)],
    )
    def test_of_table_5(self, targets, rank):
        assert accounting.rank_for(18_874_368, "gpt3-175b", targets) == (
            rank,
            18_874_368,
            0,
        )
        assert accounting.rank_for(18_874_367, "gpt3-175b", targets).rank == rank - 1

    def test_has_no_use_beyond_full_rank(self):
        assert accounting.rank_for(10**9, TINY, "up") == (4, 3 * 4 * 14, 10**9 - 168)

    def test_that_is_too_small_is_told_the_least(self):
        with pytest.raises(ValueError) as caught:
            accounting.rank_for(4_700_000, "gpt3-175b", "query,value")
        said = "budget: expected at least 4,718,592 parameters, what r = 1 on query,value of gpt3-175b has; got 4,700,000"
        assert str(caught.value) == said


@pytest.mark.parametrize(
    ("method", "architecture", "text"),
    [
        (LoRA(), "gpt3", "architecture: expected one of gpt2, gpt3-175b, "),
        (
            LoRA("query,values,w_o", 1),
            "gpt2",
            "expected names of query, key, value, output, up, down, got 'values', 'w_o'",
        ),
        (
            LoRA("", 1),
            "gpt2",
            "expected names of query, key, value, output, up, down, got ''",
        ),
        (LoRA("value", 0), "gpt2", "expected at least 1, got rank = 0"),
        (
            LoRA("value,up", 5),
            TINY,
            "rank: expected 1 <= rank <= 4 for value,up of tiny, got 5",
        ),
        (FineTune(blocks=4), TINY, "blocks: expected 1 <= blocks <= 3 for tiny, got 4"),
        (
            Adapter(1, blocks=0),
            TINY,
            "blocks: expected 1 <= blocks <= 3 for tiny, got 0",
        ),
        (
            Adapter(0, per_block=-1),
            TINY,
            "expected at least 1, got rank = 0, per_block = -1",
        ),
        (Adapter(1, norms=-1), TINY, "expected at least 0, got norms = -1"),
        (Prefix(-1, -2), TINY, "expected at least 0, got prefix = -1, infix = -2"),
        (Both(LoRA(), Prefix(-1)), "gpt2", "expected at least 0, got prefix = -1"),
    ],
)
def test_what_cannot_be_counted_is_told(method, architecture, text):
    with pytest.raises(ValueError) as caught:
        trainable_parameters(method, architecture)
    assert text in str(caught.value)
