"""What a run learned is kept in a file of its own, and comes back from it."""

import numpy as np
import pytest
import safetensors.numpy

from lora_jax import methods, tree
from lora_jax.experiment import NO_METHOD, RunConfig, adapters, check, presets
from lora_jax.experiment.adapters import through_file
from lora_jax.experiment.identity import key
from lora_jax.experiment.run import Trained, train_run
from tests.experiment.toy import BASE
from tests.experiment.trained_runs import with_random_b


@pytest.fixture(scope="module")
def trained(benches) -> Trained:
    (run,) = check.resolved([BASE], benches)
    bench = benches.bench(run)
    return train_run(bench)


@pytest.fixture(scope="module")
def out(trained, tmp_path_factory):
    """A folder that keeps the run."""
    folder = tmp_path_factory.mktemp("adapters")
    adapters.keep(folder, trained)
    return folder


def logits(trained: Trained) -> np.ndarray:
    bench = trained.bench
    return bench.predict(trained.model, "test", compute="float32")


def copy_of(out, trained: Trained, folder, run: RunConfig):
    """Copy the run's file to where another run's would be; return that path."""
    source = adapters.path_of(out, trained.bench.run)
    path = adapters.path_of(folder, run)
    path.parent.mkdir()
    path.write_bytes(source.read_bytes())
    return path


def test_the_file_is_named_by_the_runs_key(out, trained):
    (path,) = out.rglob("*.safetensors")
    run = trained.bench.run
    name = key(run.flat())
    assert path == adapters.path_of(out, run)
    assert path.parent == out / "adapters"
    assert path.stem == name


def test_what_is_loaded_writes_the_same_logits(out, trained):
    loaded = adapters.load(out, trained.bench)
    expected = logits(trained)
    again = logits(loaded)
    assert np.array_equal(again, expected)
    assert loaded.row == trained.row
    # It was trained: the model as it begins has others.
    model, _ = trained.bench.adapted()
    untrained = trained._replace(model=model)
    other = logits(untrained)
    assert not np.array_equal(other, expected)


def test_the_base_is_the_workbenches_own(out, trained):
    loaded = adapters.load(out, trained.bench)
    base = tree.leaves(trained.bench.model)
    unloaded = methods.unload(loaded.model)
    leaves = tree.leaves(unloaded)
    for path, leaf in leaves.items():
        # Not copies; of the model's own leaves only the head is trained.
        if not path.startswith("head/"):
            assert leaf is base[path]


def test_what_another_run_learned_is_refused(out, trained, benches, tmp_path):
    other = trained.bench.run.changed(seed=1)
    path = copy_of(out, trained, tmp_path, other)
    bench = benches.bench(other)
    with pytest.raises(ValueError) as error:
        adapters.load(tmp_path, bench)
    assert str(error.value) == (
        f"{path}: expected what this run learned, got another run's; delete the file "
        "to train it again"
    )


def test_a_file_that_does_not_fit_is_refused(out, trained, benches, tmp_path):
    other = trained.bench.run.changed(targets="key")
    path = copy_of(out, trained, tmp_path, other)
    bench = benches.bench(other)
    with pytest.raises(ValueError, match=path.name):
        adapters.load(tmp_path, bench)


def test_what_is_not_there(trained, tmp_path):
    with pytest.raises(FileNotFoundError):
        adapters.load(tmp_path, trained.bench)


def test_of_the_pretrained_model_nothing_is_kept(benches, tmp_path):
    run = BASE.changed(method=NO_METHOD)
    bench = benches.bench(run)
    row = {"config": run.flat()}
    pretrained = Trained(bench.model, row, bench)
    adapters.keep(tmp_path, pretrained)
    assert not list(tmp_path.iterdir())
    # It comes from where it came from.
    loaded = adapters.load(tmp_path, bench)
    assert loaded.model is bench.model
    assert loaded.row == row


def test_what_is_missing_is_named_once(out, trained):
    run = trained.bench.run
    none = run.changed(method=NO_METHOD)
    other = run.changed(seed=1)
    # A default, written out, makes no other run.
    same = other.changed(alpha=16.0)
    runs = [run, none, other, same]
    assert adapters.missing(out, runs) == [same]
    assert adapters.missing(out, [run, none]) == []


@pytest.fixture(scope="module")
def quantized():
    return with_random_b(presets.SMOKE.changed(quantize="nf4_double", rank=2))


def test_only_trained_factors_are_in_the_file_and_they_come_back(quantized):
    file, model = through_file(quantized, None)
    names = {name for name in safetensors.numpy.load(file) if "lora" in name}
    expected = set()
    for layer in ("query", "value"):
        for part in "ab":
            expected.add(f"blocks/attention/{layer}/lora_{part}")
    assert names == expected
    leaves = tree.leaves(quantized.model)
    for path, leaf in tree.leaves(model).items():
        if "/base/" not in path:
            np.testing.assert_array_equal(leaf, leaves[path])


def test_a_format_rounds_the_factors_alone(quantized):
    file, model = through_file(quantized, "nf4")
    assert len(file) < len(through_file(quantized, None)[0])
    leaves = tree.leaves(quantized.model)
    b = "blocks/attention/query/lora_b"
    rounded = tree.leaves(model)
    assert 0 < np.abs(rounded[b] - leaves[b]).max() < 0.1
    for path, leaf in rounded.items():
        if path.startswith("head"):
            np.testing.assert_array_equal(leaf, leaves[path])
