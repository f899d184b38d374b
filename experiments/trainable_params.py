"""LoRA Tables 2 to 5 and 13 to 15: do the published parameter counts follow?

Every published "# trainable parameters" of the paper is counted again (Hu et al. 2021,
arXiv 2106.09685v2): by section 5.1's closed form and, where the library has model and
method, on the model's own tree. A task's head is never counted. A count is *equal* to
the printed digit; or it is equal if what follows that digit is *truncated*; or it is
*unexplained*, and then the difference of the closed form is shown. Hyperparameters are
the table's own or, in brackets, from elsewhere. *Fitted* ones are not in the paper but
were chosen to make the count equal, which is weak evidence. Of *nearest* ones no value
makes the count equal, and this one differs least.

    python experiments/trainable_params.py
    python experiments/trainable_params.py --tables 15
    python -m lora_jax.accounting 18900000 gpt3-175b query,value    # budget -> rank
"""

import lora_jax.interrupts  # noqa: F401
from dataclasses import dataclass

from lora_jax import accounting, paper
from lora_jax.experiment import Experiment, Measurement
from lora_jax.paper.parameter_counts import TABLES
from lora_jax.results import Comparison, Report, Section, claims
from lora_jax.results.pages import trainable_params as page
from lora_jax.results.pages.needs import trainable_params as needs

# Our name of each model that the paper counts.
ARCHITECTURES = {
    "RoBERTa-base": "roberta-base",
    "RoBERTa-large": "roberta-large",
    "DeBERTa-XXL": "deberta-v2-xxl",
    "GPT-2 M": "gpt2-medium",
    "GPT-2 L": "gpt2-large",
    "GPT-3 175B": "gpt3-175b",
}


@dataclass(frozen=True)
class Options:
    tables: tuple[int, ...] = tuple(TABLES)
    """Tables of the paper."""


PRESETS = {
    "smoke": (Options(tables=(2,)), None),  # nothing is trained: there is no run
    "quick": (Options(), None),
    "full": (Options(), None),
}


def measurements(options: Options, _base, _benches) -> list[Measurement]:
    items = []
    for count in paper.lora.parameter_counts(options.tables):
        items.append(Measurement((), page.settings(count), measure))
    return items


def measure(_trained, settings):
    # The reason of a difference is no setting: it is with the paper's counts.
    counts = page.counts_by_identity()
    for setting in settings:
        count = counts[page.identity(setting)]
        method = accounting.parse_method(count.method, count.hyperparameters)
        architecture = ARCHITECTURES[count.model]
        closed_form = accounting.trainable_parameters(method, architecture)
        metrics = {"count/closed_form": closed_form}
        # DeBERTa and some of the methods are counted by formula alone.
        on_tree = accounting.tree_parameters(method, architecture)
        if on_tree is not None:
            metrics["count/tree"] = on_tree
        verdict = claims.printed_value(closed_form, count.published)
        # Of the published count.
        share = closed_form / claims.parse_printed(count.published)
        yield {
            "metrics": metrics,
            "verdict": verdict,
            "difference_percent": round(100 * (share - 1), 2),
            # Of a count that does follow there is nothing to explain.
            "reason": count.reason if verdict == claims.UNEXPLAINED else "",
        }


def show(rows: list) -> Report:
    counts = page.count_table(rows)
    ranks = page.rank_table(counts, rank_text)
    sections = [
        Section("Verdicts", [page.verdict_table(counts)]),
        *page.table_sections(counts),
        Section("Where the paper contradicts itself", [page.CONTRADICTIONS]),
        Section("Which rank for how many parameters?", [page.RANKS, ranks]),
    ]
    return Report(
        title="Trainable parameters",
        intro=__doc__,
        sections=sections,
        claims=page.count_claims(counts),
        headline="LoRA r_q=r_v=1",
        data=counts,
        # A count has no error: both must be the same.
        comparison=Comparison(by=page.SETTINGS, value="closed form", error=""),
    )


def rank_text(parameters: int, model: str, targets: str) -> str:
    """The largest rank that has no more parameters."""
    try:
        fit = accounting.rank_for(parameters, ARCHITECTURES[model], targets)
    except ValueError:  # not even r = 1
        return "none"
    return f"r = {fit.rank}"


EXPERIMENT = Experiment(
    "trainable_params", PRESETS, measurements, show, __doc__, needs=needs
)

if __name__ == "__main__":
    EXPERIMENT.script()
