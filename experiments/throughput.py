"""LoRA sections 1, 4.2 and 5.5: what does LoRA save of a training step?

Times one training step of full fine-tuning and of LoRA on the same model and batch,
interleaved, and takes the memory XLA says the compiled step needs (arguments, results
and temporaries; torch has no such number on CPU). The checkpoint is what has to be
stored for a task, the head included. With `--peer peft` the same steps are timed in
torch + peft, in the same sitting.

Hu et al. 2021 (arXiv 2106.09685v2) save 25 % of the time, two thirds of the memory and
all but a 10,000th of the checkpoint of GPT-3 175B on V100s: **a trend, not a comparison
of values**; on a small model and a CPU only the kind of saving compares.

    python experiments/throughput.py
    python experiments/throughput.py --peer peft      # needs pip install -e '.[peers]'
"""

import statistics
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from lora_jax import methods, models, paper, results
from lora_jax.accounting.peft_step import peft_step
from lora_jax.accounting.step_time import Step, compile_step, time_in_turn
from lora_jax.experiment import Experiment, Measurement
from lora_jax.results import Claim, Comparison, Report, Section, claims

SOURCE = "LoRA section 4.2"
AXES = ("framework", "compute", "method")
METHODS = ("full", "lora")
COLUMNS = {  # metric: title, digits
    "step/seconds": ("step, ms", 1),
    "step/tokens_per_second": ("tokens/s", 0),
    "memory/peak_mb": ("peak, MB", 1),
    "memory/optimizer_mb": ("optimizer, MB", 3),
    "memory/checkpoint_mb": ("checkpoint, MB", 3),
}


@dataclass(frozen=True)
class Options:
    model: str = "minilm-l6"
    """Pretrained model: minilm-l6, a directory, or a hub id."""
    batch: int = 32
    """Rows in a step."""
    length: int = 64
    """Tokens of each row, none of them padding."""
    targets: str = "query,value"
    """LoRA's matrices."""
    rank: int = 8
    """LoRA's rank."""
    computes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Dtypes of matrix products."""
    steps: int = 10
    """Timed steps of each kind, after two warm-up steps; the median counts."""
    peer: Literal["none", "peft"] = "none"
    """Time the same steps in torch + peft too."""


SMOKE = Options(model="tiny", batch=4, length=16, rank=2, steps=3)
PRESETS = {
    "smoke": (SMOKE, None),
    "quick": (Options(), None),
    "full": (Options(steps=30), None),
}
SHAPE = ("model", "batch", "length", "targets", "rank", "steps")


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    shape = {name: getattr(options, name) for name in SHAPE}
    frameworks = ["lora_jax"] if options.peer == "none" else ["lora_jax", options.peer]
    items = []
    for framework in frameworks:
        for compute in options.computes:
            for method in METHODS:
                kind = {"framework": framework, "method": method, "compute": compute}
                items.append(Measurement((), {**shape, **kind}, measure))
    return items


def measure(_trained, settings):
    """Time all steps in turn, so that a machine that slows down favors none."""
    steps = [step_of(setting) for setting in settings]
    times = time_in_turn(steps, settings[0]["steps"])
    for setting, step, seconds in zip(settings, steps, times, strict=True):
        median = statistics.median(seconds)
        tokens = setting["batch"] * setting["length"]
        metrics = {
            "step/seconds": median,
            "step/tokens_per_second": tokens / median,
        }
        for name, size in step.sizes.items():
            metrics[f"memory/{name}_mb"] = size / 1e6
        yield {"metrics": metrics, "seconds": seconds}


def step_of(setting) -> Step:
    model, _ = models.load(setting["model"])
    shape = {name: setting[name] for name in ("batch", "length")}
    shape["compute_dtype"] = setting["compute"]
    is_lora = setting["method"] == "lora"
    if setting["framework"] == "peft":
        targets = setting["targets"].split(",") if is_lora else []
        return peft_step(model.config, targets=targets, rank=setting["rank"], **shape)
    options = {"targets": setting["targets"], "rank": setting["rank"]}
    method = methods.make(setting["method"], **options)
    return compile_step(model, method, **shape)


def show(rows: list) -> Report:
    sections, tables, report_claims = [], [], []
    for group in results.groups(rows, AXES):
        table = step_table(group)
        tables.append(table)
        shape = [f"{name} {group.settings[name]}" for name in SHAPE[:-1]]
        machine = group.first["provenance"]["machine"]
        text = (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['backend']}; median "
            f"of {group.settings['steps']} steps."
        )
        digits = dict(COLUMNS.values())
        table_text = results.table(table.drop(columns="model"), digits=digits)
        saved = savings(table)
        blocks = [text, table_text, "What LoRA saves:", saved, against_peer(table)]
        sections.append(Section(", ".join(shape), blocks))
        report_claims += saving_claims(saved)
    return Report(
        title="Throughput and memory of a training step",
        intro=__doc__,
        sections=sections,
        claims=report_claims,
        data=pd.concat(tables),
        comparison=Comparison(
            by=("model", *AXES), value="step, ms", error="", relative=0.5
        ),
    )


def step_table(group: results.Group) -> pd.DataFrame:
    """One line for each framework, dtype of products and method."""
    lines = []
    for row in group.rows:
        line = {"model": group.settings["model"]}
        line |= {name: row["config"][name] for name in AXES}
        for metric, (title, _) in COLUMNS.items():
            unit = 1e3 if title == "step, ms" else 1
            value = row["metrics"].get(metric)
            line[title] = float("nan") if value is None else unit * value
        lines.append(line)
    table = results.in_order(pd.DataFrame(lines), "method", METHODS)
    table = results.in_order(table, "compute", ("float32", "bfloat16"))
    return results.in_order(table, "framework", ("lora_jax", "peft"))


def savings(table: pd.DataFrame) -> pd.DataFrame:
    """LoRA against full fine-tuning beside the paper's claims, by dtype of products."""
    published = paper.claims().published_value
    lines = []
    steps = table[table.framework == "lora_jax"].set_index(["compute", "method"])
    for compute in dict.fromkeys(table.compute):
        if not {(compute, "full"), (compute, "lora")} <= set(steps.index):
            continue
        full, lora = steps.loc[(compute, "full")], steps.loc[(compute, "lora")]
        time_saved = 100 * (1 - lora["step, ms"] / full["step, ms"])
        memory = full["peak, MB"] / lora["peak, MB"]
        checkpoint = full["checkpoint, MB"] / lora["checkpoint, MB"]
        # The value at which nothing is saved is the hypothesis to reject.
        for claim, quantity, ours, nothing in (
            ("L9", "time saved by LoRA, %", time_saved, 0),
            ("L2", "peak memory, full / LoRA", memory, 1),
            ("L7", "checkpoint, full / LoRA", checkpoint, 1),
        ):
            line = {"compute": compute, "what": quantity, "ours": round(ours, 2)}
            line["paper"] = f"{published[claim]:g} ({claim})"
            lines.append({**line, "verdict": claims.verdict_on(ours - nothing)})
    return pd.DataFrame(lines)


def saving_claims(saved: pd.DataFrame) -> list[Claim]:
    result = []
    for _, line in saved.iterrows():
        evidence = f"{line['ours']:g} in {line['compute']}"
        statement = f"{line['what']}: {line['paper']}"
        result.append(Claim(SOURCE, statement, evidence, line["verdict"]))
    return result


def against_peer(table: pd.DataFrame) -> pd.DataFrame | str:
    """Our step's time over the peer's."""
    steps = table.set_index(list(AXES))["step, ms"]
    lines = []
    for compute in dict.fromkeys(table.compute):
        for method in METHODS:
            ours, peer = ("lora_jax", compute, method), ("peft", compute, method)
            if ours in steps.index and peer in steps.index:
                ratio = round(steps[ours] / steps[peer], 2)
                line = {"compute": compute, "method": method}
                lines.append({**line, "step, lora_jax / peft": ratio})
    return pd.DataFrame(lines) if lines else ""


EXPERIMENT = Experiment("throughput", PRESETS, measurements, show, description=__doc__)

if __name__ == "__main__":
    EXPERIMENT.script()
