"""Parameter counts: by hand, against transformers' models, and against the tree."""

from typing import Any

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
    tree_parameters,
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
# The library has no DeBERTa.
MODELS = [name for name in accounting.ARCHITECTURES if name != "deberta-v2-xxl"]
ALL_NAMES = pytest.mark.parametrize("name", accounting.ARCHITECTURES)


class TestByHand:
    def test_fine_tuning(self):
        attention = 4 * (4 * 4 + 4)
        mlp = (4 * 10 + 10) + (10 * 4 + 4)
        norm = 4 + 4
        block = attention + mlp + 2 * norm
        tables = 7 * 4 + 5 * 4
        count = trainable_parameters(FineTune(), TINY)
        assert count == tables + 3 * block + norm
        assert trainable_parameters(FineTune(blocks=2), TINY) == 2 * block

    def test_bitfit(self):
        attention, mlp, norms = 4 * 4, 10 + 4, 2 * 4
        last_norm = 4
        count = trainable_parameters(BitFit(), TINY)
        assert count == 3 * (attention + mlp + norms) + last_norm

    def test_prefixes(self):
        embeddings = Prefix(2, 1)
        assert trainable_parameters(embeddings, TINY) == 3 * 4
        layers = Prefix(2, 1, every_layer=True)
        assert trainable_parameters(layers, TINY) == 3 * 3 * 4

    def test_adapters(self):
        bottleneck = 4 * 2 + 2 + 2 * 4 + 4
        norm = 4 + 4
        adapter_h = Adapter(2)
        assert trainable_parameters(adapter_h, TINY) == 3 * 2 * bottleneck
        adapter_l = Adapter(2, per_block=1, norms=1)
        assert trainable_parameters(adapter_l, TINY) == 3 * (bottleneck + norm)
        adapter_d = Adapter(2, per_block=1, blocks=2)
        assert trainable_parameters(adapter_d, TINY) == 2 * bottleneck

    def test_lora(self):
        square, up = 4 + 4, 4 + 10
        assert trainable_parameters(LoRA("value", 2), TINY) == 3 * 2 * square
        # Spaces do not matter, nor does a target that is named twice.
        three = trainable_parameters(LoRA("query, up,down,up", 1), TINY)
        assert three == 3 * (square + up + up)

    def test_two_methods_at_once(self):
        both = Both(LoRA("value", 2), Prefix(2, 1))
        assert trainable_parameters(both, TINY) == 48 + 12

    def test_the_published_formulas_on_gpt_3(self):
        lora = trainable_parameters(LoRA("query,value", 4), "gpt3-175b")
        assert lora == 2 * 2 * 96 * 12288 * 4
        adapter = trainable_parameters(Adapter(1), "gpt3-175b")
        assert adapter == 2 * 96 * (2 * 12288 + 1 + 12288)

    def test_only_the_pretrained_roberta_has_a_pooler(self):
        total = accounting.total_parameters("roberta-base")
        tuned = trainable_parameters(FineTune(), "roberta-base")
        assert total - tuned == 768 * 768 + 768


@pytest.fixture(scope="module")
def reference():
    """Return transformers' parameters of an architecture, {name: count}.

    They are without head and without weights.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def count(name: str) -> dict[str, int]:
        family, config = _transformers_config(accounting.ARCHITECTURES[name])
        make_config = getattr(transformers, f"{family}Config")
        with torch.device("meta"):
            model = getattr(transformers, f"{family}Model")(make_config(**config))
        return {path: leaf.numel() for path, leaf in model.named_parameters()}

    return count


def _transformers_config(sizes: Architecture) -> tuple[str, dict[str, Any]]:
    if sizes.family == "gpt2":
        return "GPT2", {
            "n_embd": sizes.width,
            "n_layer": sizes.layers,
            "n_head": sizes.heads,
            "n_inner": sizes.ffn,
            "vocab_size": sizes.vocabulary,
            "n_positions": sizes.max_positions,
        }
    config = {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.ffn,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": sizes.max_positions,
        "type_vocab_size": sizes.segments,
    }
    if sizes.family != "deberta":
        return sizes.family.capitalize(), config
    xxl = {
        "relative_attention": True,
        "position_buckets": sizes.max_positions // 2,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "conv_kernel_size": 3,
        "conv_act": "gelu",
        "position_biased_input": False,
    }
    return "DebertaV2", config | xxl


class TestAgainstTransformers:
    @ALL_NAMES
    def test_all_parameters(self, name, reference):
        counts = reference(name)
        assert accounting.total_parameters(name) == sum(counts.values())

    @ALL_NAMES
    def test_biases(self, name, reference):
        biases = 0
        for path, count in reference(name).items():
            # In place of RoBERTa's pooler a classifier has its head.
            is_replaced = "roberta" in name and "pooler" in path
            if path.endswith("bias") and not is_replaced:
                biases += count
        assert trainable_parameters(BitFit(), name) == biases

    def test_the_top_two_blocks(self, reference):
        top = 0
        for path, count in reference("gpt2-medium").items():
            if path.startswith(("h.22.", "h.23.")):
                top += count
        count = trainable_parameters(FineTune(blocks=2), "gpt2-medium")
        assert count == top == 25_192_448


def _architecture(family: str, heads: int, **sizes: int) -> Architecture:
    segments = 0 if family == "gpt2" else 2
    width = 4 * heads
    return Architecture(
        "drawn", family, width=width, heads=heads, segments=segments, **sizes
    )


SIZES = st.builds(
    _architecture,
    st.sampled_from(["bert", "roberta", "gpt2"]),
    heads=st.integers(1, 4),
    layers=st.integers(2, 5),
    ffn=st.integers(4, 40),
    vocabulary=st.integers(1, 99),
    max_positions=st.integers(4, 40),
)
NAMES = ("query", "key", "value", "output", "up", "down")
TARGETS = st.sets(st.sampled_from(NAMES), min_size=1).map(",".join)
LORAS = st.builds(LoRA, TARGETS, st.integers(1, 4))
METHODS = st.one_of(st.just(FineTune()), st.just(BitFit()), LORAS)


class TestTree:
    @settings(max_examples=20, deadline=None)
    @given(SIZES, METHODS)
    def test_the_tree_has_the_closed_form(self, sizes, method):
        counted = tree_parameters(method, sizes)
        assert counted == trainable_parameters(method, sizes)

    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize(
        "method", [FineTune(), BitFit(), LoRA("query,value,up,down", 4)], ids=str
    )
    def test_every_model_has_the_closed_form(self, name, method):
        counted = tree_parameters(method, name)
        assert counted == trainable_parameters(method, name)

    def test_it_takes_no_memory(self):
        before = sum(array.nbytes for array in jax.live_arrays())
        lora = LoRA("query,key,value,output", 64)
        assert tree_parameters(lora, "gpt3-175b") == 603_979_776
        after = sum(array.nbytes for array in jax.live_arrays())
        assert after <= before + 1000

    def test_it_is_the_count_of_an_adapted_model(self, tiny):
        model = tiny("roberta", 3)
        method = methods.lora("query,up", 3)
        counted = methods.counts(method.adapt(jax.random.key(0), model), method)
        sizes = {}
        for name in Architecture._fields[2:]:
            sizes[name] = getattr(model.config, name)
        architecture = Architecture("tiny", "roberta", **sizes)
        formula = tree_parameters(LoRA("query,up", 3), architecture)
        assert formula == counted.adapter
        # The head is not in it.
        assert counted.head == (16 * 16 + 16) + (16 * 3 + 3)

    def test_without_the_model_there_is_none(self):
        assert tree_parameters(LoRA(), "deberta-v2-xxl") is None

    @pytest.mark.parametrize(
        "method",
        [Adapter(1), Prefix(1), FineTune(blocks=2), Both(LoRA(), Prefix(1))],
        ids=str,
    )
    def test_without_the_method_there_is_none(self, method):
        assert tree_parameters(method, "gpt2") is None


ERRORS = [
    (LoRA(), "gpt3", "architecture: expected one of gpt2, gpt3-175b, "),
    (
        LoRA("query,values,w_o", 1),
        "gpt2",
        "names of query, key, value, output, up, down, got 'values', 'w_o'",
    ),
    (LoRA("", 1), "gpt2", "names of query, key, value, output, up, down, got ''"),
    (LoRA("value", 0), "gpt2", "expected at least 1, got rank = 0"),
    (
        LoRA("value,up", 5),
        TINY,
        "rank: expected 1 <= rank <= 4 for value,up of tiny, got 5",
    ),
    (FineTune(blocks=4), TINY, "blocks: expected 1 <= blocks <= 3 for tiny, got 4"),
    (Adapter(1, blocks=0), TINY, "blocks: expected 1 <= blocks <= 3 for tiny, got 0"),
    (
        Adapter(0, per_block=-1),
        TINY,
        "expected at least 1, got rank = 0, per_block = -1",
    ),
    (Adapter(1, norms=-1), TINY, "expected at least 0, got norms = -1"),
    (Prefix(-1, -2), TINY, "expected at least 0, got prefix = -1, infix = -2"),
    (Both(LoRA(), Prefix(-1)), "gpt2", "expected at least 0, got prefix = -1"),
]


@pytest.mark.parametrize(("method", "architecture", "message"), ERRORS)
def test_what_cannot_be_counted_is_refused(method, architecture, message):
    with pytest.raises(ValueError) as caught:
        trainable_parameters(method, architecture)
    assert message in str(caught.value)
