"""What each page reads of a row: the fields without which it cannot be drawn.

There is a function for each experiment, by its name. Some rows of an experiment have
other fields than others, so that each takes the row; what it holds is checked only
afterwards, and may be anything.
"""

from functools import cache

from lora_jax import paper
from lora_jax.results.grouping import primary_metric
from lora_jax.results.pages import amplification as amplification_page
from lora_jax.results.pages import memory as memory_page
from lora_jax.results.pages import quantization as quantization_page
from lora_jax.results.pages import quantized_merge as merge_page
from lora_jax.results.pages import svd_truncation as svd_page
from lora_jax.results.pages import throughput as throughput_page
from lora_jax.results.pages import trainable_params as counts_page
from lora_jax.results.row_fields import (
    COUNT,
    CURVE,
    FLOAT_COUNT,
    MAPS,
    NAME,
    NUMBER,
    NUMBERS,
    OBJECT,
    POSITIVE,
    SCORE,
    SHARE,
    SIZE,
    SWITCH,
    TEXT,
    WHOLE,
    Kind,
    Needs,
    one_of,
    optional,
)
from lora_jax.results.rows import Row

# The settings that every run has.
RUN: Needs = {
    "config.model": NAME,
    "config.data": NAME,
    "config.method": NAME,
    "config.seed": WHOLE,
}
ADAPTER: Needs = {"config.targets": NAME, "config.rank": COUNT}
PARAMETERS: Needs = {"parameters.adapter": WHOLE, "parameters.head": WHOLE}
MERGE_METRICS = (
    *("matrices/distance", "matrices/kept"),
    *("logits/distance", "logits/largest", "logits/same_class"),
)
COMPUTE = one_of("float32", "bfloat16")


def scored(row: Row) -> Needs:
    """Return what a page of scores reads: the settings, a metric, and its examples."""
    needs = {**RUN, "metrics.{}": SCORE, "examples": OBJECT}
    if row["metrics"]:
        metric = primary_metric(row)
        split, _, name = metric.partition("/")
        needs[f"examples.{split}"] = COUNT
        # Of an accuracy the page computes the error.
        if name == "accuracy":
            needs[f"metrics.{metric}"] = SHARE
    return needs


def rank_sweep(row: Row) -> Needs:
    """Return what the page of LoRA's Table 6 reads."""
    return {**scored(row), **ADAPTER, **PARAMETERS}


def weight_selection(row: Row) -> Needs:
    """Return what the page of LoRA's Table 5 reads."""
    return {**rank_sweep(row), "config.budget": COUNT}


def generated(row: Row) -> Needs:
    """Return what a page on methods that generate text reads."""
    texts = "written.{}"
    return {
        **scored(row),
        **PARAMETERS,
        "config.epochs": WHOLE,
        "config.learning_rate": NUMBER,
        "metrics.validation/loss": SCORE,
        "examples.train": COUNT,
        "seconds": SIZE,
        "tokens_per_second": SIZE,
        "curve": CURVE,
        f"{texts}.tokens_per_second": SIZE,
        f"{texts}.missing": OBJECT,
        f"{texts}.examples.[].source": TEXT,
        f"{texts}.examples.[].output": TEXT,
        f"{texts}.examples.[].references.[]": TEXT,
    }


def rank_sweep_nlg(row: Row) -> Needs:
    """Return what the page of LoRA's Table 18 reads."""
    return {**generated(row), **ADAPTER}


def amplification(row: Row) -> Needs:
    """Return what the page of LoRA's Table 7 and Figure 8 reads."""
    needs = {
        **RUN,
        **ADAPTER,
        "config.matrix": NAME,
        "config.alpha": POSITIVE,
        "config.rank_stabilized": SWITCH,
        "dimension": COUNT,
        "phi": MAPS,
        "phi_random": MAPS,
    }
    phi = row.get("phi")
    layers = len(phi) if isinstance(phi, list) else 0
    for layer in range(1, layers + 1):
        for name in amplification_page.COLUMNS:
            needs[f"metrics.layer{layer}/{name}"] = SIZE
    return needs


def subspace_similarity(_row: Row) -> Needs:
    """Return what the page of LoRA's Figures 3, 4, 6 and 7 reads."""
    needs = {
        "config.comparison": one_of("rank", "seed", "random"),
        "config.matrix": NAME,
        "config.side": one_of("input", "output"),
        "dimension": COUNT,
        "phi": MAPS,
    }
    for side in ("left", "right"):
        for path, kind in {**RUN, **ADAPTER}.items():
            needs[path.replace("config", f"config.{side}")] = kind
    return needs


def svd_truncation(row: Row) -> Needs:
    """Return what the page on truncated updates reads."""
    needs = {**scored(row), **ADAPTER, "config.k": WHOLE, "parameters": WHOLE}
    needs["config.learning_rate"] = NUMBER
    for name in svd_page.LOSSES:
        needs[f"metrics.delta/{name}"] = NUMBER
    return needs


def quantization(row: Row) -> Needs:
    """Return what the page of QLoRA's Tables 2 to 4 reads."""
    parts = one_of(*quantization_page.TITLES)
    return {**scored(row), "config.part": parts, "config.type": NAME}


def quantized_adapters(row: Row) -> Needs:
    """Return what the page on adapters in few bits reads."""
    needs = {
        **scored(row),
        "config.stored": NAME,
        "metrics.size/file": POSITIVE,
        "metrics.size/bits": POSITIVE,
        "metrics.delta/error": NUMBER,
        "metrics.logits/distance": NUMBER,
    }
    return {**needs, **_beside_the_score(row, "change")}


def quantized_merge(row: Row) -> Needs:
    """Return what the page on merging into a quantized base reads."""
    needs = {
        **scored(row),
        "config.quantize": NAME,
        "config.into": one_of(*merge_page.PLACES),
        "metrics.size/bits": NUMBER,
        "layers.{}.distance": NUMBERS,
        "layers.{}.kept": NUMBERS,
    }
    for name in MERGE_METRICS:
        needs[f"metrics.{name}"] = NUMBER
    return {**needs, **_beside_the_score(row, "unmerged")}


def quantization_cost(row: Row) -> Needs:
    """Return what the page on the bytes and times of formats reads."""
    needs = {
        "config.model": NAME,
        "config.type": NAME,
        "config.part": one_of("sizes", "step"),
    }
    if row["config"].get("part") == "step":
        times: Needs = {"metrics.step/seconds": POSITIVE, "metrics.step/peak": POSITIVE}
        return {**needs, **times}
    for name in ("size/bits", "size/disk", "size/memory"):
        needs[f"metrics.{name}"] = POSITIVE
    return {
        **needs,
        # Null stands for the format's own size.
        "config.block": optional(COUNT),
        "metrics.error/relative": SIZE,
    }


def memory(_row: Row) -> Needs:
    """Return what the page on the memory of a training step reads."""
    needs = {
        "config.model": NAME,
        "config.compute": COMPUTE,
        "config.method": one_of(*memory_page.METHODS),
        "config.targets": TEXT,
        "config.rank": WHOLE,
        "config.batch": COUNT,
        "config.length": COUNT,
    }
    for name in memory_page.PARTS:
        needs[f"metrics.predicted/{name}"] = SIZE
    for source in ("predicted", "compiled"):
        for part in ("total", "temporary"):
            needs[f"metrics.{source}/{part}"] = POSITIVE
    return needs


def throughput(row: Row) -> Needs:
    """Return what the page on the time and memory of a training step reads."""
    needs = {
        "config.model": NAME,
        "config.targets": TEXT,
        "metrics.step/seconds": POSITIVE,
        "metrics.step/tokens_per_second": POSITIVE,
    }
    for name in ("batch", "length", "rank", "steps"):
        needs[f"config.{name}"] = COUNT
    for name, choices in throughput_page.ORDER.items():
        needs[f"config.{name}"] = one_of(*choices)
    # What a framework does not say is missing: torch has no peak on CPU.
    if row["config"].get("framework") == throughput_page.OURS:
        needs["metrics.memory/peak_mb"] = POSITIVE
        needs["metrics.memory/checkpoint_mb"] = POSITIVE
        needs["metrics.memory/optimizer_mb"] = POSITIVE
    return needs


def gpt3_memory(_row: Row) -> Needs:
    """Return what the page on the memory of training GPT-3 reads."""
    needs = {"config.architecture": TEXT, "config.precision": TEXT}
    for method in ("full", "lora"):
        for name in ("total", "parameters", "checkpoint"):
            needs[f"metrics.{method}/{name}"] = POSITIVE
    return needs


def qlora_memory(_row: Row) -> Needs:
    """Return what the page of QLoRA's Figure 6 reads."""
    models: dict[str, None] = {}
    needs: dict[str, Kind] = {}
    for model, part in paper.qlora.figure6():
        models[model] = None
        for account in ("ours", "fitted"):
            needs[f"metrics.{account}/{part}"] = SIZE
    needs["config.base"] = one_of(*models)
    needs["metrics.full/total"] = POSITIVE
    needs["metrics.sequence/inputs_of_blocks"] = POSITIVE
    return needs


def trainable_params(row: Row) -> Needs:
    """Return what the page on published counts reads."""
    needs = {f"config.{name}": TEXT for name in counts_page.SETTINGS}
    needs["config.table"] = WHOLE
    config = row["config"]
    # Only of a config with all settings it can be asked whether the paper has it.
    if config.keys() >= set(counts_page.SETTINGS):
        needs["config"] = Kind("a count that the paper prints", _is_published)
    # What the library has no tree for is missing.
    if "count/tree" in row["metrics"]:
        needs["metrics.count/tree"] = FLOAT_COUNT
    return {
        **needs,
        "metrics.count/closed_form": FLOAT_COUNT,
        "difference_percent": NUMBER,
        "reason": TEXT,
        "verdict": one_of(*counts_page.VERDICTS),
    }


def _beside_the_score(row: Row, split: str) -> Needs:
    """What a page reads beside a row's score: the same metric, under another name."""
    if not row["metrics"]:
        return {}
    name = primary_metric(row).partition("/")[2]
    return {f"metrics.{split}/{name}": SCORE}


def _is_published(config: Row) -> bool:
    # A list, as what is no text may not be a key.
    return counts_page.identity(config) in _published()


@cache
def _published() -> list[tuple]:
    return list(counts_page.counts_by_identity())
