"""Which runs are trained together, as the cells of a population.

Runs go together that differ in settings that are data to a step: seed, learning rate,
warm-up, weight decay and, with LoRA, whatever its scales and stored ranks can express.
Which population a run was in is no part of its identity.
"""

from collections.abc import Hashable, Sequence

from lora_jax import devices, train, tree
from lora_jax.experiment.config import NO_METHOD, RunConfig
from lora_jax.experiment.identity import key
from lora_jax.experiment.workbench import ATTENTION, Workbenches
from lora_jax.plural import counted
from lora_jax.train import sharding

FREE = ("seed", "learning_rate", "warmup", "weight_decay")
FREE_IN_LORA = ("rank", "alpha", "rank_stabilized", "init", "targets", "layers")
# What cells store beside the base may fill this part of a device's memory: the rest is
# for the base, and for what is computed.
STORED_SHARE = 0.3
STORED_COPIES = 3  # weights, gradients, the best epoch's weights; moments come on top


def check_size(size: int, run: RunConfig | None) -> None:
    """Raise a ValueError unless a population may have so many cells.

    `run` is what the flags say of the trainings, if there are any.
    """
    if size < 0:
        raise ValueError(
            "--population: expected the number of trainings that share a step, "
            f"0 or 1 for one by one, got {size}"
        )
    mesh = run.train.mesh if run else sharding.AUTO
    is_divided = mesh != sharding.AUTO and sharding.parse_mesh(mesh).cells > 1
    if is_divided and size < 2:
        raise ValueError(
            f"mesh: {mesh} divides the trainings of a population: expected --population "
            "and their number, at most"
        )


def groups(
    runs: Sequence[RunConfig], size: int, benches: Workbenches
) -> list[list[RunConfig]]:
    """Return the populations of at most `size` runs; runs that stay alone are left out.

    Runs of one seed stay together where they can, for they read the same batches.
    """
    if size < 2:
        return []
    by_program: dict[Hashable, list[RunConfig]] = {}
    for run in runs:
        if run.method != NO_METHOD and not run.train.offload:
            by_program.setdefault(program(run), []).append(run)
    populations = []
    for alike in by_program.values():
        if len(alike) > 1:
            most_cells = min(size, cells_that_fit(alike, benches))
            populations += _cut_by_seed(alike, most_cells)
    # A cell alone gains nothing.
    return [cells for cells in populations if len(cells) > 1]


def program(run: RunConfig) -> Hashable:
    """Return what the runs of a population have in common."""
    settings = run.flat()
    free: list[str] = list(FREE)
    if run.method == "lora" and _has_idle_targets(run):
        free += FREE_IN_LORA
    # Another order of the rows has batches of other shapes, and so other dropout.
    if settings.get("hidden_dropout") or settings.get("dropout") or run.train.pack:
        free.remove("seed")
    for name in free:
        settings.pop(name, None)
    return key(settings)


def cells_that_fit(runs: Sequence[RunConfig], benches: Workbenches) -> int:
    """Return of how many of the runs a device can store what they learn."""
    # Nothing is known of the memory on Windows, for one.
    memory = devices.memory_bytes()
    if memory is None:
        return len(runs)
    # Ranks are stored like the widest.
    widest = max(runs, key=lambda run: benches.bench(run).counts())
    model, mask = benches.bench(widest).adapted()
    trainable, _ = tree.split(model, mask)
    cell_bytes = STORED_COPIES * tree.nbytes(trainable)
    cell_bytes += train.moment_bytes(trainable)
    return max(1, int(STORED_SHARE * memory / cell_bytes))


def plan_line(
    kinds: Sequence[Sequence[RunConfig]], size: int, benches: Workbenches
) -> str:
    """Return a line on what is trained together, of each kind of runs by itself."""
    together = []
    for runs in kinds:
        together += groups(runs, size, benches)
    count = sum(map(len, kinds))
    sizes = [len(cells) for cells in together]
    alone = count - sum(sizes)
    alone_text = f"{counted(alone, 'training')} alone"
    if not sizes:
        return f"no trainings go together: {alone_text}"
    listed = ", ".join(map(str, sizes))
    text = f"{counted(len(sizes), 'population')} of {listed} trainings"
    return f"{text}, {alone_text}" if alone else text


def _has_idle_targets(run: RunConfig) -> bool:
    """Whether a run's adapters are among those that all of a sweep have."""
    options = run.flat()
    targets = set(str(options["targets"]).split(","))
    return targets <= set(ATTENTION.split(",")) and options["bias"] != "lora_only"


def _cut_by_seed(runs: Sequence[RunConfig], most_cells: int) -> list[list[RunConfig]]:
    """The runs in populations, those of a seed together where they fit."""
    by_seed: dict[int, list[RunConfig]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    populations: list[list[RunConfig]] = [[]]
    for cells in by_seed.values():
        # More of them than fit are cut anyway.
        is_whole = len(cells) <= most_cells
        if is_whole and len(populations[-1]) + len(cells) > most_cells:
            populations.append([])
        for cell in cells:
            # More of one seed than fit.
            if len(populations[-1]) == most_cells:
                populations.append([])
            populations[-1].append(cell)
    return [population for population in populations if population]
