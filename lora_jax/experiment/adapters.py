"""What runs learned, kept in OUT/adapters for the experiments that analyze it."""

from pathlib import Path

from lora_jax import methods
from lora_jax.checkpoints import adapter
from lora_jax.experiment.config import NO_METHOD, RunConfig, key
from lora_jax.experiment.run import Trained
from lora_jax.experiment.workbench import Workbench
from lora_jax.results import files

FOLDER = "adapters"


def path_of(out: Path, run: RunConfig) -> Path:
    """Return the file that keeps what a run learned."""
    return out / FOLDER / f"{key(run.flat())}.safetensors"


def keep(out: Path, trained: Trained) -> None:
    """Write what a run learned, unless it is the pretrained model as it is."""
    run = trained.bench.run
    # It can be loaded from where it came from.
    if run.method == NO_METHOD:
        return
    mask = methods.mask(trained.model, trained.bench.method())
    content = adapter.dump(trained.model, mask, trained.row)
    files.write(path_of(out, run), content)


def load(out: Path, bench: Workbench) -> Trained:
    """Return a run as it was kept.

    Raises:
        ValueError: the file does not fit the run, or is what another run learned.
    """
    path = path_of(out, bench.run)
    model, mask = bench.adapted()
    # Nothing was trained, so nothing was kept.
    if mask is None:
        return Trained(model, {"config": bench.run.flat()}, bench)
    model, row = adapter.load(path, model, mask)
    # Somebody may have copied or renamed files.
    if key(row["config"]) != key(bench.run.flat()):
        raise ValueError(
            f"{path}: expected what this run learned, got another run's; delete the "
            "file to train it again"
        )
    return Trained(model, row, bench)


def missing(out: Path, runs: list[RunConfig]) -> list[RunConfig]:
    """Return the runs of which nothing is kept, each once."""
    # By key, since measurements have runs in common.
    by_key = {}
    for run in runs:
        is_kept = run.method == NO_METHOD or path_of(out, run).exists()
        if not is_kept:
            by_key[key(run.flat())] = run
    return list(by_key.values())
