"""A published number or effect beside ours, and what comes of it: what an experiment concludes, computed from its rows.

A value is compared where both sides mean the same: a count, a size. Of an experiment on another model and other data only the
effect is looked for: which of two is higher, how something falls. An absent effect is a finding.
"""

import math
from typing import NamedTuple

VALUES = {
    "equal": "as printed",
    "truncated": "as printed, if what follows the printed digits is cut off",
    "fitted": "as printed, by a setting that is not in the paper and was chosen for it",
    "near": "a rounded claim of the text, and within 10 % of it",
    "unexplained": "not as printed; the section says what is known of the reason",
}
EFFECTS = {
    "seen": "as in the paper",
    "within the error": "no difference larger than its standard error",
    "not known": "there is no standard error to hold the difference against",
    "not seen": "the other way round, or not there",
}


class Verdict(NamedTuple):
    """One published number or effect."""

    where: str  # "LoRA Table 5"
    published: str
    ours: str
    verdict: str  # of VALUES or EFFECTS

    @property
    def kind(self) -> str:
        """Whether values are compared or an effect is looked for."""
        return "value" if self.verdict in VALUES else "effect"


def effect(difference: float, error: float = 0.0) -> str:
    """The verdict on a difference that is above 0 in the paper; `error` is its standard error, NaN if there is none."""
    if math.isnan(error):
        return "not known"
    if abs(difference) <= error:
        return "within the error"
    return "seen" if difference > 0 else "not seen"


def as_good(score: float, other: float, error: float) -> str:
    """The verdict on the claim that one score is as good as another, to a standard error of their difference."""
    if math.isnan(error):
        return "not known"
    return "seen" if score >= other - error else "not seen"
