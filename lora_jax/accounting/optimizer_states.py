"""What training with Adam stores of a model, activations apart, from its counts; and the claims of LoRA's section 4.2 on it."""

from collections.abc import Mapping
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import NamedTuple

from lora_jax import accounting, paper


class Precision(NamedTuple):
    """A way to train: bytes of a parameter as stored; of one that learns, its gradient, Adam's two moments, a copy to update."""

    name: str
    weight: int
    gradient: int
    moments: int
    copy: int

    @property
    def learning(self) -> int:
        """Bytes of a parameter that learns."""
        return self.weight + self.gradient + self.moments + self.copy


HALF = Precision("FP16", 2, 2, 4, 0)
MIXED = Precision("FP16, moments and a copy FP32", 2, 2, 8, 4)
PRECISIONS = {
    way.name: way
    for way in (
        Precision("FP16, no gradient kept", 2, 0, 4, 0),
        HALF,
        Precision("FP16, moments FP32", 2, 2, 8, 0),
        MIXED,
        Precision("FP32", 4, 4, 8, 0),
    )
}
"""By name. A gradient need not be kept where each layer is updated as soon as there is one; moments and a copy of the weights in
FP32 are the usual mixed precision (Micikevicius et al. 2018, arXiv 1710.03740); QLoRA's 780 GB for 65B are 12 bytes each."""


class States(NamedTuple):
    """Bytes: in memory, all but the last; and on disk for one task."""

    weights: int  # with their copy to update
    gradients: int
    optimizer: int
    checkpoint: int

    @property
    def total(self) -> int:
        """Bytes in memory."""
        return self.weights + self.gradients + self.optimizer


def states(parameters: int, learning: int, precision: Precision) -> States:
    """What is stored of a model of so many parameters, an adapter's among them, so many of which learn.

    Raises:
        ValueError: more learn than there are.
    """
    if not 0 <= learning <= parameters:
        raise ValueError(
            f"learning: expected 0 to {parameters:,}, the model's parameters, got {learning:,}"
        )
    return States(
        weights=parameters * precision.weight + learning * precision.copy,
        gradients=learning * precision.gradient,
        optimizer=learning * precision.moments,
        checkpoint=learning * precision.weight,
    )


def compare(
    architecture: str, targets: str, rank: int, precision: str
) -> dict[str, int]:
    """Full fine-tuning against LoRA, in bytes: "full/total", "lora/weights" and so on, and the parameters that learn.

    "sequence/inputs_of_blocks": those of one sequence of the greatest length in FP16, all that checkpointing keeps.
    """
    sizes = accounting.ARCHITECTURES[architecture]
    every = accounting.total_parameters(sizes)
    learning = accounting.trainable_parameters(accounting.LoRA(targets, rank), sizes)
    metrics = {
        "sequence/inputs_of_blocks": 2
        * sizes.layers
        * sizes.max_positions
        * sizes.width
    }
    for method, there, learn in (
        ("full", every, every),
        ("lora", every + learning, learning),
    ):
        found = states(there, learn, PRECISIONS[precision])
        metrics |= {f"{method}/{part}": size for part, size in found._asdict().items()}
        metrics |= {f"{method}/total": found.total, f"{method}/parameters": learn}
    return metrics


class Claim(NamedTuple):
    """A published number beside ours; `verdict` is one of `verdicts.VALUES`."""

    claim: str
    what: str
    paper: str
    ours: str
    precision: str
    verdict: str


_CLAIMS = {
    "L3": ("memory, full fine-tuning", "TB", lambda at: at["full/total"] / 1e12),
    "L2": ("memory, full / LoRA", "x", lambda at: at["full/total"] / at["lora/total"]),
    "L15": (
        "memory saved, up to",
        "",
        lambda at: 1 - at["lora/total"] / at["full/total"],
    ),
    "L4": ("memory, LoRA", "GB", lambda at: at["lora/total"] / 1e9),
    "L5": ("checkpoint, full", "GB", lambda at: at["full/checkpoint"] / 1e9),
    "L6": ("checkpoint, LoRA", "MB", lambda at: at["lora/checkpoint"] / 1e6),
    "L7": (
        "checkpoint, full / LoRA",
        "x",
        lambda at: at["full/checkpoint"] / at["lora/checkpoint"],
    ),
    "L8": (
        "100 adapted models",
        "GB",
        lambda at: (at["full/checkpoint"] + 100 * at["lora/checkpoint"]) / 1e9,
    ),
}
_DEPENDS = ("L2", "L3", "L15")  # on the precision, which the paper does not say


def section_4_2(found: Mapping[str, Mapping[str, float]]) -> list[Claim]:
    """The paper's numbers on GPT-3 175B beside ours: those of FP16; the nearest, where the precision matters.

    found: what `compare` gives, by precision; without FP16 there are no claims.
    """
    table, claims = paper.claims(), []
    for claim, (what, unit, measure) in _CLAIMS.items() if HALF.name in found else ():
        said = table.loc[claim].published_value
        printed = (
            f"{said:g}" if isinstance(said, float) else f"{float(Fraction(said)):.2f}"
        )
        names = (
            [name for name in PRECISIONS if name in found]
            if claim in _DEPENDS
            else [HALF.name]
        )
        ours = {name: measure(found[name]) for name in names}
        far = {name: abs(value - float(printed)) for name, value in ours.items()}
        name = min(far, key=far.__getitem__)
        verdict = judged(ours[name], printed)
        verdict = "fitted" if claim in _DEPENDS and verdict == "equal" else verdict
        claims.append(
            Claim(
                claim,
                what,
                f"{printed} {unit}".strip(),
                f"{ours[name]:.4g} {unit}".strip(),
                name,
                verdict,
            )
        )
    return claims


def judged(ours: float, printed: str) -> str:
    """The verdict on a value beside a printed one: equal or truncated at its last digit, near, or unexplained."""
    published, exact = Decimal(printed), Decimal(ours)
    for verdict, mode in (("equal", ROUND_HALF_UP), ("truncated", ROUND_DOWN)):
        if exact.quantize(published, mode) == published:
            return verdict
    return "near" if abs(exact / published - 1) <= Decimal("0.1") else "unexplained"
