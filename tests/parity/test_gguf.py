"""A published GGUF file is the same model and the same tokens as transformers makes of it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from lora_jax import tree
from lora_jax.checkpoints import gguf, placement
from lora_jax.models import llama
from tests.checkpoints.gguf.files import dense
from tests.checkpoints.gguf.published import IDS, read_smollm2

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.real
TEXTS = [
    *IDS,
    "",
    " ",
    "½ cup, m², x² + y²; ١٢٣ １２３ Ⅷ ①",
    "don't WE'LL 'tis",
    "naïve cafe\u0301",
    "<|im_end|>  <|im_end|> x",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "smollm2.gguf"
    path.write_bytes(read_smollm2())
    return path


@pytest.fixture(scope="module")
def theirs(path):
    return transformers.LlamaForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


def test_tensors_and_settings(path, theirs):
    file = gguf.read(path)
    expected, got = theirs.state_dict(), gguf.hf_tensors(file)
    assert expected.keys() - got.keys() == {"lm_head.weight"}  # tied
    for name, tensor in got.items():
        assert dense(tensor.read()).tobytes() == expected[name].numpy().tobytes(), name
    config = theirs.config.to_dict()
    config |= {
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "tie_word_embeddings": True,
    }
    found = gguf.hf_config(file)
    assert found == {name: config[name] for name in found}


def test_logits(path, theirs):
    file = gguf.read(path)
    config = llama.Config.from_hf(gguf.hf_config(file))
    abstract = jax.eval_shape(lambda key: llama.init(key, config), jax.random.key(0))
    arrays = placement.load(
        gguf.hf_tensors(file), llama.rules(config), tree.leaves(abstract)
    )
    model = tree.replace(
        abstract,
        {name: jax.tree.map(jnp.asarray, leaf) for name, leaf in arrays.items()},
    )
    tokens = np.array(
        [gguf.build_tokenizer(file).encode("name : The Vaults | Type : pub || ").ids]
    )
    logits = jax.jit(
        type(model).__call__, compiler_options={"xla_backend_optimization_level": 0}
    )
    got = logits(model, jnp.asarray(tokens))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_tokens(path):
    """Of its own accord transformers leaves out that digits, in any script, stand alone."""
    theirs = transformers.AutoTokenizer.from_pretrained(
        path.parent, gguf_file=path.name
    ).backend_tokenizer
    ours = gguf.build_tokenizer(gguf.read(path))
    same = [text for text in TEXTS if ours.encode(text).ids == theirs.encode(text).ids]
    assert len(TEXTS) - len(same) == 2 and "don't WE'LL 'tis" in same
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]
    )
    for text in TEXTS:
        assert ours.encode(text).ids == theirs.encode(text).ids, text
