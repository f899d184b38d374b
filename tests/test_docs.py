"""Everything that the README and docs/ show can be run as it is written there.

Blocks of one page share a namespace. Those after `<!-- real -->` need a pretrained model
or the network; the others run without. Of commands the script and every flag are
checked, but nothing is trained.
"""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from lora_jax import methods, models, tree
from lora_jax.experiment import cli
from tests import notebook, pages

NOTEBOOKS = sorted((pages.ROOT / "docs").glob("*.ipynb"))
README = pages.ROOT / "README.md"
README_LINES = 120


def pages_with_blocks(*, real):
    """The pages that have Python blocks, real ones or others."""
    chosen = []
    for page in pages.all_pages():
        kinds = {block.is_real for block in pages.python_blocks(page)}
        if real in kinds:
            chosen.append(page)
    return chosen


def run_blocks(page, *, real):
    """Run a page's blocks, the real ones only where `real`; return the namespace."""
    # Another name than that of a script, which would start a command.
    namespace = {"__name__": "page"}
    for number, block in enumerate(pages.python_blocks(page), start=1):
        if real or not block.is_real:
            code = compile(block.code, f"{page.name}, block {number}", "exec")
            exec(code, namespace)
    return namespace


@pytest.mark.parametrize("page", pages_with_blocks(real=False), ids=lambda p: p.stem)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(page, real=False)


@pytest.mark.real
@pytest.mark.parametrize("page", pages_with_blocks(real=True), ids=lambda p: p.stem)
def test_the_blocks_of_a_page_run_on_real_models(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run_blocks(page, real=True)
    if page == README:
        check_library_example(namespace)


def check_library_example(names):
    """What the README's example trains is what it saves, loads and merges."""
    tokens = jnp.array([[101, 2307, 2143, 102]])
    trained = names["fit"].model(tokens)
    assert not np.allclose(names["model"](tokens), trained, atol=1e-3)
    np.testing.assert_array_equal(names["restored"](tokens), trained)
    np.testing.assert_allclose(names["plain"](tokens), trained, atol=1e-4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_prints_the_outputs_it_was_committed_with(
    path, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    content = notebook.read(path)
    texts = notebook.run(content)
    for cell, text in zip(notebook.code_cells(content), texts, strict=True):
        assert without_digits(text) == without_digits(notebook.printed(cell))
    assert "the same logits: True\n" in texts


def without_digits(text):
    """Losses differ in their last digits from machine to machine."""
    return re.sub(r"\d+", "0", text)


@pytest.mark.parametrize("page", ["README.md", "docs/add_a_method.md"])
@pytest.mark.parametrize(
    ("name", "inputs"), [("tiny", 2 * 2 * 16), ("tiny-llama", 2 * 2 * 32)]
)
def test_the_method_to_add_starts_as_the_base_and_merges(page, name, inputs):
    model, _ = models.load(name)
    method = method_to_add(pages.ROOT / page)("query,value")
    adapted = method.adapt(jax.random.key(0), model)
    tokens = jnp.arange(12).reshape(2, 6)
    np.testing.assert_allclose(adapted(tokens), model(tokens), atol=1e-6)
    assert methods.counts(adapted, method).adapter == inputs

    gains = tree.find(adapted, method.trainable)
    trained = tree.replace(adapted, {path: gains[path] * 9 for path in gains})
    merged = methods.merge(trained)
    np.testing.assert_allclose(merged(tokens), trained(tokens), atol=1e-5)
    assert not np.allclose(trained(tokens), model(tokens), atol=1e-4)


def method_to_add(page):
    """The constructor of the method that a page shows."""
    for block in pages.python_blocks(page):
        if "class Gain" in block.code:
            namespace = {}
            exec(block.code, namespace)
            return namespace["gain"]
    raise AssertionError(f"{page} has no method to add")


def test_the_experiment_to_add_draws_its_page(experiment_to_add, tmp_path):
    out = tmp_path / "results"
    experiment_to_add.EXPERIMENT.main(["--preset", "smoke", "--out", str(out)])
    page = (out / "dropout" / "README.md").read_text(encoding="utf-8")
    assert "a little dropout is better than none" in page
    assert len(experiment_to_add.EXPERIMENT.rows(out)) == 2


@pytest.fixture(scope="module")
def experiment_to_add(tmp_path_factory):
    """The module `dropout` of docs/add_an_experiment.md.

    It is a file, since the help of its flags is read from its source.
    """
    block = pages.python_blocks(pages.ROOT / "docs" / "add_an_experiment.md")[0]
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "dropout.py").write_text(block.code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield importlib.import_module("dropout")
    sys.path.remove(str(folder))
    del sys.modules["dropout"]


@pytest.mark.parametrize("page", pages.all_pages(), ids=lambda p: p.stem)
def test_every_command_of_a_page_is_there_with_its_flags(
    page, experiment_to_add, monkeypatch
):
    # Some commands are about the method and the experiment that the pages add.
    monkeypatch.setitem(methods.METHODS, "gain", method_to_add(README))
    for words in pages.commands(page):
        check_command(words)


def check_command(words):
    program, *arguments = words
    if program == "python" and arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), words
    elif program == "python" and arguments[0].startswith("experiments/"):
        check_experiment(Path(arguments[0]), arguments[1:])
    elif program == "python":
        assert (pages.ROOT / arguments[0]).is_file(), words
    elif program == "pytest":
        folders = [word for word in arguments if word.startswith("tests")]
        for folder in folders:
            assert (pages.ROOT / folder).exists(), words


def check_experiment(script, arguments):
    """The script takes these arguments. Nothing is loaded or trained."""
    module = importlib.import_module(script.stem)
    if script.stem == "report":
        tyro.cli(module.Options, args=arguments)
        return
    experiment = module.EXPERIMENT
    cli.parse(
        experiment.name,
        experiment.description,
        experiment.presets,
        keep=experiment.keep,
        hidden=experiment.hidden,
        arguments=[word for word in arguments if word != "--help"],
    )


@pytest.mark.parametrize("page", pages.all_pages(), ids=lambda p: p.stem)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in pages.links(page):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_of_docs_is_in_its_index():
    index = pages.ROOT / "docs" / "README.md"
    listed = set(pages.links(index)) | {index.name}
    names = {path.name for path in index.parent.iterdir() if path.is_file()}
    assert names <= listed


def test_the_readme_is_short():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= README_LINES


def test_the_readme_marks_the_place_of_the_results():
    text = README.read_text(encoding="utf-8")
    assert text.count("<!-- results -->") == text.count("<!-- /results -->") == 1
