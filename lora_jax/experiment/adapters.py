"""What runs learned, kept in OUT/adapters for the experiments that analyze it."""

import tempfile
from pathlib import Path
from typing import Any

from lora_jax import methods, tree
from lora_jax.checkpoints import adapter
from lora_jax.experiment.config import NO_METHOD, RunConfig
from lora_jax.experiment.identity import key
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
    config = row.get("config")
    if not isinstance(config, dict) or key(config) != key(bench.run.flat()):
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


def through_file(trained: Trained, quantize: str | None) -> tuple[bytes, Any]:
    """Return the file of what a run learned, and the model as it is read back from it.

    With `quantize`, a name in `quant.FORMATS`, A and B are stored in that format. Idle
    adapters, which only make models share a compiled program, are not in the file.
    """
    model, row, bench = trained
    mask = methods.mask(model, bench.method())
    mask = _without_idle(mask, model)
    file = adapter.dump(
        model,
        mask,
        row,
        quantize=quantize,
    )
    # Reading needs a path: nothing is kept.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        path.write_bytes(file)
        loaded, _ = adapter.load(path, model, mask)
    return file, loaded


def _without_idle(mask: Any, model: Any) -> Any:
    """The mask of what is trainable, without the matrices of idle adapters."""
    idle = {}
    for path, layer in methods.adapters(model).items():
        # A layer that counts no parameters.
        if layer.parameters():
            continue
        for name in ("lora_a", "lora_b"):
            leaf = f"{path}/{name}"
            idle[leaf] = False
    return tree.replace(mask, idle)
