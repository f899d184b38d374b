"""Everything that the README and docs/ show can be run as it is written there.

Blocks of one page share a namespace. Those after `<!-- real -->` need a pretrained model
or the network; the others run without. Of commands the script and every flag are
checked, but nothing is trained.
"""

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from lora_jax import methods, models, tree
from lora_jax.experiment import cli
from tests import notebook, pages

README = pages.ROOT / "README.md"
README_LINES = 120
DOCS = pages.ROOT / "docs"
ADD_A_METHOD = DOCS / "add_a_method.md"
ADD_AN_EXPERIMENT = DOCS / "add_an_experiment.md"
NOTEBOOKS = sorted(DOCS.glob("*.ipynb"))


def page_name(page):
    """The name of a test's parameter."""
    return page.stem


def pages_with_blocks(*, real):
    """The pages that have Python blocks, real ones or others."""
    chosen = []
    for page in pages.all_pages():
        kinds = [block.is_real for block in pages.python_blocks(page)]
        if real in kinds:
            chosen.append(page)
    return chosen


def run_blocks(page, *, real):
    """Run a page's blocks, the real ones only where `real`; return the namespace."""
    # Another name than that of a script, which would start a command.
    namespace = {"__name__": "page"}
    for number, block in enumerate(pages.python_blocks(page), start=1):
        if real or not block.is_real:
            # The name stands in tracebacks.
            code = compile(block.code, f"{page.name}, block {number}", "exec")
            exec(code, namespace)
    return namespace


# Blocks of Python.


@pytest.mark.parametrize("page", pages_with_blocks(real=False), ids=page_name)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    # Blocks write files as a reader's would.
    monkeypatch.chdir(tmp_path)
    run_blocks(page, real=False)


@pytest.mark.real
@pytest.mark.parametrize("page", pages_with_blocks(real=True), ids=page_name)
def test_the_blocks_of_a_page_run_on_real_models(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run_blocks(page, real=True)
    if page == README:
        check_library_example(namespace)


def check_library_example(names):
    """What the README's example trains is what it saves, loads and merges."""
    tokens = jnp.array([[101, 2307, 2143, 102]])  # [CLS] great film [SEP]
    pretrained = names["model"](tokens)
    trained = names["fit"].model(tokens)
    assert not np.allclose(pretrained, trained, atol=1e-3)

    restored = names["restored"](tokens)
    np.testing.assert_array_equal(restored, trained)
    merged = names["plain"](tokens)
    np.testing.assert_allclose(merged, trained, atol=1e-4)


# The notebook.


@pytest.mark.parametrize("path", NOTEBOOKS, ids=page_name)
def test_a_notebook_prints_the_outputs_it_was_committed_with(
    path, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    content = notebook.read(path)
    texts = notebook.run(content)
    cells = notebook.code_cells(content)
    for cell, text in zip(cells, texts, strict=True):
        committed = notebook.printed(cell)
        assert without_digits(text) == without_digits(committed)
    # By hand and by the library it is one function.
    assert "the same logits: True\n" in texts


def without_digits(text):
    """The text with every number alike: losses differ a little between machines."""
    return re.sub(r"\d+", "0", text)


# The method to add.


# Two layers and two matrices each, of 16 or 32 inputs.
@pytest.mark.parametrize(("name", "inputs"), [("tiny", 16), ("tiny-llama", 32)])
@pytest.mark.parametrize("page", [README, ADD_A_METHOD], ids=page_name)
def test_the_method_to_add_starts_as_the_base_and_merges(page, name, inputs):
    model, _ = models.load(name)
    method = method_to_add(page)("query,value")
    adapted = method.adapt(jax.random.key(0), model)
    tokens = jnp.arange(12).reshape(2, 6)
    at_start = model(tokens)
    np.testing.assert_allclose(adapted(tokens), at_start, atol=1e-6)
    assert methods.counts(adapted, method).adapter == 2 * 2 * inputs

    # As if training had made every factor large.
    gains = tree.find(adapted, method.trainable)
    large = {path: gains[path] * 9 for path in gains}
    trained = tree.replace(adapted, large)
    logits = trained(tokens)
    assert not np.allclose(logits, at_start, atol=1e-4)
    merged = methods.merge(trained)
    np.testing.assert_allclose(merged(tokens), logits, atol=1e-5)


def method_to_add(page):
    """The constructor of the method that a page shows."""
    for block in pages.python_blocks(page):
        if "class Gain" in block.code:
            namespace = {}
            exec(block.code, namespace)
            return namespace["gain"]
    raise AssertionError(f"{page} has no method to add")


# The experiment to add.


def test_the_method_to_add_runs_as_the_readme_says(tmp_path):
    """In a copy of the library: the block as its file, and the two lines it names."""
    shutil.copytree(pages.ROOT / "lora_jax", tmp_path / "lora_jax")
    shutil.copytree(pages.ROOT / "experiments", tmp_path / "experiments")
    shutil.copytree(pages.ROOT / "paper_tables", tmp_path / "paper_tables")
    folder = tmp_path / "lora_jax" / "methods"
    (block,) = [
        block for block in pages.python_blocks(README) if "def gain" in block.code
    ]
    (folder / "gain.py").write_text(block.code, encoding="utf-8")
    text = pages.read(README)
    init = folder / "__init__.py"
    lines = init.read_text(encoding="utf-8")
    for place, addition in (
        ("from lora_jax.methods.full", "from lora_jax.methods.gain import gain\n"),
        ('    "lora": lora,', '    "gain": gain,\n'),
    ):
        assert addition.strip().rstrip(",") in text
        lines = lines.replace(place, addition + place, 1)
    init.write_text(lines, encoding="utf-8")

    command = "experiments/rank_sweep.py --method gain --ranks 1"
    assert f"python {command}" in text
    words = [sys.executable, *command.split(), "--preset", "smoke", "--no-huge-pages"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    page = pages.read(tmp_path / "results" / "smoke" / "rank_sweep" / "README.md")
    # The method has no rank.
    assert "nan" not in page


@pytest.fixture(scope="module")
def experiment_to_add(tmp_path_factory):
    """The experiment `dropout` of docs/add_an_experiment.md.

    It is in a file, since the help of its flags is read from its source.
    """
    block = pages.python_blocks(ADD_AN_EXPERIMENT)[0]
    folder = tmp_path_factory.mktemp("experiments")
    path = folder / "dropout.py"
    path.write_text(block.code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    module = importlib.import_module("dropout")
    yield module.EXPERIMENT
    sys.path.remove(str(folder))
    del sys.modules["dropout"]


def test_the_experiment_to_add_draws_its_page(experiment_to_add, tmp_path):
    arguments = ["--preset", "smoke", "--out", str(tmp_path)]
    experiment_to_add.main(arguments)
    page = pages.read(tmp_path / "dropout" / "README.md")
    assert "a little dropout is better than none" in page
    rows = experiment_to_add.rows(tmp_path)
    assert len(rows) == 2


# Commands.


@pytest.mark.parametrize("page", pages.all_pages(), ids=page_name)
def test_every_command_of_a_page_is_there_with_its_flags(
    page, experiment_to_add, monkeypatch
):
    # Some commands are about the method and the experiment that the pages add.
    monkeypatch.setitem(methods.METHODS, "gain", method_to_add(README))
    for words in pages.commands(page):
        check_command(words)


def check_command(words):
    """What a command names is there; pip and git are taken at their word."""
    program, *arguments = words
    first = arguments[0] if arguments else ""
    if program == "python" and first == "-m":
        module = arguments[1]
        assert importlib.util.find_spec(module), words
    elif program == "python" and first.startswith("experiments/"):
        check_experiment(first, arguments[1:])
    elif program == "python":
        assert (pages.ROOT / first).is_file(), words
    elif program == "pytest" and first.startswith("tests"):
        assert (pages.ROOT / first).exists(), words


def check_experiment(script, arguments):
    """The script takes these arguments. Nothing is loaded or trained."""
    name = script.removeprefix("experiments/").removesuffix(".py")
    module = importlib.import_module(name)
    # `--help` ends the process, whatever comes with it.
    flags = [word for word in arguments if word != "--help"]
    if name == "report":
        tyro.cli(module.Options, args=flags)
        return
    experiment = module.EXPERIMENT
    cli.parse(
        experiment.name,
        experiment.description,
        experiment.presets,
        keep=experiment.keep,
        hidden=experiment.hidden,
        arguments=flags,
    )


# The pages themselves.


@pytest.mark.parametrize("page", pages.all_pages(), ids=page_name)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in pages.links(page):
        path = page.parent / target
        assert path.exists(), f"{page.name} links to {target}"


def test_every_page_of_docs_is_in_its_index():
    index = DOCS / "README.md"
    links = pages.links(index)
    for path in DOCS.iterdir():
        is_page = path.is_file() and path != index
        assert not is_page or path.name in links


def test_the_readme_is_short():
    lines = pages.read(README).splitlines()
    assert len(lines) <= README_LINES


def test_the_readme_marks_the_place_of_the_results():
    # `experiments/report.py` writes between them.
    text = pages.read(README)
    assert text.count("<!-- results -->") == 1
    assert text.count("<!-- /results -->") == 1
