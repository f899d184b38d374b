"""A GGUF file of the Llama family has Hugging Face's config.json and tensors.

llama.cpp's permutation of query and key is undone without a number changed.
"""

import tempfile
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_jax import quant, tree
from lora_jax.checkpoints import placement
from lora_jax.checkpoints.gguf import file as files
from lora_jax.checkpoints.gguf import llama as ours
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.models import llama
from tests.checkpoints.gguf.files import dense

TYPES = [Type.F32, Type.Q4_0, Type.Q4_1, Type.Q8_0]
WIDTH, FFN, HEADS, KV_HEADS, VOCABULARY = 64, 96, 4, 2, 6
# Of a file with one layer, in its order of names.
SHAPES = {
    "token_embd.weight": (VOCABULARY, WIDTH),
    "blk.0.attn_norm.weight": (WIDTH,),
    "blk.0.attn_q.weight": (WIDTH, WIDTH),
    "blk.0.attn_k.weight": (WIDTH // 2, WIDTH),
    "blk.0.attn_v.weight": (WIDTH // 2, WIDTH),
    "blk.0.attn_output.weight": (WIDTH, WIDTH),
    "blk.0.ffn_norm.weight": (WIDTH,),
    "blk.0.ffn_gate.weight": (FFN, WIDTH),
    "blk.0.ffn_up.weight": (FFN, WIDTH),
    "blk.0.ffn_down.weight": (WIDTH, FFN),
    "output_norm.weight": (WIDTH,),
}
LAYER = "model.layers.0."
# Hugging Face's, in the same order.
NAMES = [
    "model.embed_tokens.weight",
    LAYER + "input_layernorm.weight",
    LAYER + "self_attn.q_proj.weight",
    LAYER + "self_attn.k_proj.weight",
    LAYER + "self_attn.v_proj.weight",
    LAYER + "self_attn.o_proj.weight",
    LAYER + "post_attention_layernorm.weight",
    LAYER + "mlp.gate_proj.weight",
    LAYER + "mlp.up_proj.weight",
    LAYER + "mlp.down_proj.weight",
    "model.norm.weight",
]
# The metadata that a file must have.
NEEDED = {
    "context_length": 128,
    "embedding_length": WIDTH,
    "feed_forward_length": FFN,
    "block_count": 1,
    "attention.head_count": HEADS,
    "attention.layer_norm_rms_epsilon": 1e-5,
}


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter does it: the two halves of each head take turns."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.swapaxes(halves, 1, 2).reshape(rows.shape)


def tensor(numbers: Any) -> Tensor:
    array = np.asarray(numbers, np.float32)
    return Tensor("x.gguf", array.shape, array.dtype, lambda: array)


def unread(shape: tuple[int, ...]) -> Tensor:
    return Tensor(
        "x.gguf",
        shape,
        np.dtype("float32"),
        lambda: pytest.fail("read before it is asked for"),
    )


def file(
    architecture: str = "llama",
    *,
    facts: Any = NEEDED,
    more: Any = None,
    tensors: Any = None,
) -> files.File:
    """A file of tensors that must not be read, but for those in `tensors`."""
    metadata = {
        "general.architecture": architecture,
        "tokenizer.ggml.tokens": [str(i) for i in range(VOCABULARY)],
    }
    for name, value in facts.items():
        metadata[f"{architecture}.{name}"] = value
    metadata |= more or {}
    all_tensors = {name: unread(shape) for name, shape in SHAPES.items()}
    all_tensors |= tensors or {}
    return files.File(metadata, all_tensors)


def error_of(gguf_file: files.File, function: Any = ours.hf_config) -> str:
    with pytest.raises(ValueError) as caught:
        function(gguf_file)
    return str(caught.value)


def test_a_file_that_says_everything():
    facts = NEEDED | {
        "attention.head_count_kv": KV_HEADS,
        "rope.freq_base": 5e5,
        "rope.dimension_count": 16,
        "vocab_size": VOCABULARY,
    }
    ids = {"bos_token_id": 1, "eos_token_id": 2, "padding_token_id": 0}
    more = {f"tokenizer.ggml.{name}": i for name, i in ids.items()}
    assert ours.hf_config(
        file(
            facts=facts,
            more=more,
            tensors={"output.weight": unread((VOCABULARY, WIDTH))},
        )
    ) == {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "max_position_embeddings": 128,
        "vocab_size": 6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def test_a_file_that_says_what_it_must():
    """All other fields are as in llama.cpp."""
    bias = {"blk.0.attn_q.bias": unread((WIDTH,))}
    config = ours.hf_config(file("qwen2", tensors=bias))
    assert config["model_type"] == "qwen2"
    # As many heads of keys as of queries, and frequencies from 10,000.
    assert config["num_key_value_heads"] == HEADS
    assert config["rope_theta"] == 10_000.0
    # A tied head, and the biases that are in the file.
    assert config["tie_word_embeddings"]
    assert config["attention_bias"] and not config["mlp_bias"]
    for name in ("head_dim", "bos_token_id", "pad_token_id"):
        assert config[name] is None
    assert not {"rope_scaling", "rope_factors"} & config.keys()

    sizes = {"attention.key_length": 32, "rope.dimension_count": 32}
    assert ours.hf_config(file(facts=NEEDED | sizes))["head_dim"] == 32


def test_scaled_frequencies():
    def scaling(**facts):
        scaled = {f"rope.scaling.{name}": value for name, value in facts.items()}
        config = ours.hf_config(file(facts=NEEDED | scaled))
        return config.get("rope_scaling")

    assert scaling(factor=2.0) == {
        "rope_type": "linear",
        "factor": 2.0,
        "original_max_position_embeddings": None,
    }
    assert scaling(type="yarn", factor=4.0, original_context_length=64) == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    assert scaling(type="none", factor=2.0) is None
    assert scaling(type="linear") is None


def test_factors_of_llama_3_1():

    gguf_file = file(
        facts=NEEDED | {"rope.dimension_count": 16},
        tensors={ours.FACTORS: tensor([1, 1, 1, 2, 4, 8, 8, 8])},
    )
    assert ours.hf_config(gguf_file)["rope_factors"] == [1, 1, 1, 2, 4, 8, 8, 8]
    assert ours.FACTORS not in ours.hf_tensors(gguf_file)


def test_another_architecture():
    assert (
        error_of(file("gemma"))
        == "general.architecture: expected one of llama, qwen2, got 'gemma'"
    )
    assert (
        error_of(files.File({}, {}), ours.hf_tensors)
        == "general.architecture: expected one of llama, qwen2, got None"
    )


def test_everything_that_is_wrong_is_named_at_once():
    facts = {
        "attention.head_count": [4, 2],
        "block_count": 0,
        "attention.layer_norm_rms_epsilon": True,
        "expert_count": 8,
    }
    assert error_of(
        file(
            facts=facts
            | {"attention.key_length": 16, "rope.dimension_count": 8, "vocab_size": 7}
        )
    ) == (
        "this GGUF file does not describe a model of the llama family:"
        "\n  llama.embedding_length: expected a positive number, got None"
        "\n  llama.feed_forward_length: expected a positive number, got None"
        "\n  llama.block_count: expected a positive number, got 0"
        "\n  llama.attention.head_count: expected a positive number, got [4, 2]"
        "\n  llama.attention.head_count_kv: expected a positive number, got [4, 2]"
        "\n  llama.attention.layer_norm_rms_epsilon: expected a positive number, "
        "got True"
        "\n  llama.context_length: expected a positive number, got None"
        "\n  expected one size of the vocabulary, got 7 vocab_size, 6 tokens, "
        "6 rows of token_embd.weight"
        "\n  llama.rope.dimension_count: expected attention.key_length, which is 16, "
        "got 8"
        "\n  llama.expert_count: expected no mixture of experts, got 8"
    )


def test_a_vocabulary_of_two_sizes_or_none():
    head = {"output.weight": unread((8, WIDTH))}
    assert error_of(file(tensors=head)).endswith(
        "got 6 tokens, 6 rows of token_embd.weight, 8 rows of output.weight"
    )
    empty = file()
    empty.tensors.clear()
    del empty.metadata["tokenizer.ggml.tokens"]
    assert error_of(empty).endswith("expected one size of the vocabulary, got none")


def test_factors_of_another_number():
    gguf_file = file(
        facts=NEEDED | {"rope.dimension_count": 16},
        tensors={ours.FACTORS: tensor([1, 2])},
    )
    assert error_of(gguf_file).endswith(
        "rope_freqs.weight: expected one for each pair of 16 numbers of a head, got 2"
    )


def test_rows_that_are_no_pairs_of_heads():
    tensors = {
        "blk.0.attn_q.weight": unread((60, WIDTH)),
        "blk.0.attn_k.bias": unread((7,)),
    }
    assert error_of(file(tensors=tensors), ours.hf_tensors) == (
        "expected pairs of rows for each head, got "
        "model.layers.0.self_attn.q_proj.weight (60, 64) with 4, "
        "model.layers.0.self_attn.k_proj.bias (7,) with 4"
    )


def test_names_are_hugging_face_s_and_nothing_is_read():
    more = {
        "output.weight": unread((VOCABULARY, WIDTH)),
        "blk.0.attn_v.bias": unread((WIDTH,)),
    }
    tensors = ours.hf_tensors(file(tensors=more))
    bias = "model.layers.0.self_attn.v_proj.bias"
    assert list(tensors) == [*NAMES, "lm_head.weight", bias]
    assert [tensors[name].shape for name in NAMES] == list(SHAPES.values())


def test_two_heads_by_hand():
    # Of heads of 4 rows llama.cpp has rows 0, 2, 1, 3.
    rows = [0, 1, 2, 3, 4, 5, 6, 7]
    permuted_rows = [0, 2, 1, 3, 4, 6, 5, 7]
    facts = NEEDED | {"attention.head_count": 2}
    biases = {f"blk.0.attn_{name}.bias": tensor(permuted_rows) for name in "qkv"}
    # Biases go with the rows; values and all of Qwen2's stay.
    cases = {
        "llama": [rows, rows, permuted_rows],
        "qwen2": [permuted_rows, permuted_rows, permuted_rows],
    }
    for architecture, expected in cases.items():
        tensors = ours.hf_tensors(file(architecture, facts=facts, tensors=biases))
        for name, numbers in zip("qkv", expected, strict=True):
            bias = tensors[f"{LAYER}self_attn.{name}_proj.bias"]
            assert bias.read().tolist() == numbers


def write(
    path: Path,
    stored: dict[str, tuple[np.ndarray, Type]],
    heads: int,
    kv_heads: int,
    architecture: str = "llama",
) -> Path:
    """A file of these bytes or floats with one layer."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_block_count(1)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([str(i) for i in range(VOCABULARY)])
    for name, (data, raw_type) in stored.items():
        writer.add_tensor(name, data, raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(TYPES),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_undoing_llama_cpp_s_permutation_gives_the_matrix_back(
    raw_type, kv_heads, queries, half, blocks, seed
):
    heads = kv_heads * queries
    rng = np.random.default_rng(seed)
    stored = {}
    # Query and key permuted, and as they were in the places of output and value.
    for name, plain, count in (("q", "output", heads), ("k", "v", kv_heads)):
        numbers = rng.normal(size=(2 * half * count, 32 * blocks)).astype(np.float32)
        data = gguf.quants.quantize(numbers, raw_type)
        stored[f"blk.0.attn_{plain}.weight"] = data, raw_type
        data = gguf.quants.quantize(permuted(numbers, count), raw_type)
        stored[f"blk.0.attn_{name}.weight"] = data, raw_type
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "x.gguf", stored, heads, kv_heads)
        tensors = ours.hf_tensors(files.read(path))

    for name, plain in (("q", "o"), ("k", "v")):
        value = tensors[f"{LAYER}self_attn.{name}_proj.weight"].read()
        expected = tensors[f"{LAYER}self_attn.{plain}_proj.weight"].read()
        assert quant.is_quantized(value) == (raw_type != Type.F32)
        assert value.shape == expected.shape
        assert jax.tree.structure(value) == jax.tree.structure(expected)
        pairs = zip(jax.tree.leaves(value), jax.tree.leaves(expected), strict=True)
        for leaf, expected_leaf in pairs:
            assert type(leaf) is np.ndarray
            assert leaf.tobytes() == expected_leaf.tobytes()


def test_the_model_of_this_library_takes_all_of_it(tmp_path):
    rng = np.random.default_rng(0)
    permuted_heads = {"blk.0.attn_q.weight": HEADS, "blk.0.attn_k.weight": KV_HEADS}
    dequantized, stored = {}, {}
    for (theirs, shape), name in zip(SHAPES.items(), NAMES, strict=True):
        raw_type = Type.F32 if len(shape) == 1 else Type.Q4_1
        numbers = rng.normal(size=shape).astype(np.float32)
        data = gguf.quants.quantize(numbers, raw_type)
        dequantized[name] = tensor(gguf.quants.dequantize(data, raw_type))
        if theirs in permuted_heads:
            data = permuted(data, permuted_heads[theirs])
        stored[theirs] = data, raw_type
    gguf_file = files.read(write(tmp_path / "x.gguf", stored, HEADS, KV_HEADS))

    config = llama.Config.from_hf(ours.hf_config(gguf_file))
    model = jax.eval_shape(lambda key: llama.init(key, config), jax.random.key(0))
    shapes, rules = tree.leaves(model), llama.rules(config)
    loaded = placement.load(ours.hf_tensors(gguf_file), rules, shapes)
    expected = placement.load(dequantized, rules, shapes)
    assert loaded.keys() == expected.keys() == shapes.keys()
    for path, value in loaded.items():
        np.testing.assert_array_equal(dense(value), expected[path], err_msg=path)


def test_files_from_before_the_fields_of_scaling():
    """Their one field is the factor of a linear scaling."""
    old = ours.hf_config(file(facts=NEEDED | {"rope.scale_linear": 4.0}))
    assert old["rope_scaling"]["rope_type"] == "linear"
    assert old["rope_scaling"]["factor"] == 4.0
    both = NEEDED | {"rope.scale_linear": 4.0, "rope.scaling.factor": 2.0}
    assert ours.hf_config(file(facts=both))["rope_scaling"]["factor"] == 2.0
