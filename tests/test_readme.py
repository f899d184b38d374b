"""The README's code runs and does what it says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import methods, models, tree

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def code(containing):
    return next(
        block
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if containing in block
    )


@pytest.mark.parametrize(
    ("name", "outputs"), [("tiny", 2 * 2 * 16), ("tiny-llama", 2 * (32 + 16))]
)
def test_the_method_of_the_readme_starts_as_the_base_and_merges(name, outputs):
    names = {}
    exec(code("class Gain"), names)
    model, _ = models.load(name)
    method = names["gain"]("query,value")
    adapted = method.adapt(jax.random.key(0), model)
    tokens = jnp.arange(12).reshape(2, 6)
    np.testing.assert_allclose(adapted(tokens), model(tokens), atol=1e-6)
    assert methods.counts(adapted, method).adapter == outputs
    learnt = tree.replace(
        adapted, {path: leaf * 9 for path, leaf in tree.find(adapted, "/gain$").items()}
    )
    np.testing.assert_allclose(methods.merge(learnt)(tokens), learnt(tokens), atol=1e-5)
    assert not np.allclose(learnt(tokens), model(tokens), atol=1e-4)


@pytest.mark.real
def test_the_library_example_prints_what_it_says(capsys):
    names = {}
    exec(code("models.load("), names)
    assert capsys.readouterr().out == "Counts(adapter=73728, head=770)\n"
    tokens = jnp.array([[101, 2307, 2143, 102]])
    np.testing.assert_allclose(names["plain"](tokens), names["logits"], atol=1e-5)


def test_every_file_of_the_tree_and_every_command_is_there():
    for name in re.findall(r"experiments/\w+\.py|results/\w+\.\w+|\w+\.md", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"^  (\w+(?:\.py|/))", README, re.MULTILINE):
        assert (ROOT / "lora_jax" / name).exists(), name


@pytest.mark.real
def test_the_language_model_s_example_completes_the_sentence(capsys):
    exec(code("generation.generate("), {})
    said = capsys.readouterr().out
    print(said)
    assert "Paris" in said and float(said.split()[-1]) > 0
