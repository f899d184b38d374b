"""What a paper claims, beside what our rows show.

A claim about a value (a count, a size) means the same on both sides, and must hold to
the printed digit. A claim about an effect (which of two scores is higher, how something
falls) is checked on another model and other data, so only its direction is compared. An
effect that does not reproduce is a finding.
"""

import math
from collections.abc import Callable, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple, TypeVar

from lora_jax.results.grouping import Named

Item = TypeVar("Item")

# Verdicts on an effect.
REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
WITHIN_ERROR = "within one standard error"
UNKNOWN_ERROR = "one seed: no standard error"
# Verdicts on a value.
EQUAL = "equal"
TRUNCATED = "truncated"
FITTED = "fitted"
NEAR = "near"
UNEXPLAINED = "unexplained"

# Each verdict with its meaning, in the order they are counted in.
VALUES = {
    EQUAL: "as printed",
    TRUNCATED: "as printed, if what follows the printed digits is cut off",
    FITTED: "as printed, by a setting that is not in the paper and was chosen for it",
    NEAR: "a rounded claim of the text, and within 10 % of it",
    UNEXPLAINED: "not as printed; the section says what is known of the reason",
}
EFFECTS = {
    REPRODUCED: "as in the paper",
    WITHIN_ERROR: "no difference larger than its standard error",
    UNKNOWN_ERROR: "no standard error to compare the difference with",
    NOT_REPRODUCED: "the other way round, or absent",
}
# The letters after a printed number.
SCALES = {"M": 10**6, "B": 10**9}


class Claim(NamedTuple):
    """One published statement and our evidence for or against it."""

    source: str  # "LoRA Table 6"
    statement: str
    evidence: str
    verdict: str  # a key of VALUES or EFFECTS

    @property
    def kind(self) -> str:
        """Whether values are compared, or an effect is looked for."""
        return "value" if self.verdict in VALUES else "effect"


class Score(NamedTuple):
    """A score and its standard error, NaN where none is known."""

    value: float
    error: float


def of_groups(
    groups: Sequence[Named], items: Sequence[Item], make: Callable[[Item], list[Claim]]
) -> list[Claim]:
    """Return the claims of every group; where there are several, with their names.

    `items` has what the claims of each group are made from.
    """
    result = []
    for group, item in zip(groups, items, strict=True):
        for claim in make(item):
            if len(groups) > 1:
                statement = f"{claim.statement} ({group.name})"
                claim = claim._replace(statement=statement)
            result.append(claim)
    return result


def line_score(line: Any) -> Score:
    """Return the score of a line of `results.scores`."""
    return Score(float(line["score"]), float(line["error"]))


def mean_score(table: Any) -> Score:
    """Return the mean of independent scores, the lines of a table, and its error."""
    mean = float(table["score"].mean())
    # Errors of independent scores add up as squares.
    squares = [float(error) ** 2 for error in table["error"]]
    error = math.sqrt(sum(squares)) / len(squares)
    return Score(mean, error)


def difference(
    source: str,
    statement: str,
    ours: Score,
    other: Score,
    *,
    unit: str = " %",
    digits: int = 1,
) -> Claim:
    """Check the claim that `ours` is above `other`."""
    # The standard error of the difference.
    error = math.hypot(ours.error, other.error)
    evidence = _against(ours, other, error, unit, digits)
    verdict = verdict_on(ours.value - other.value, error)
    return Claim(source, statement, evidence, verdict)


def no_worse(
    source: str,
    statement: str,
    ours: Score,
    other: Score,
    *,
    unit: str = " %",
    digits: int = 1,
) -> Claim:
    """Check that `ours` is as good as `other`, to one standard error."""
    error = math.hypot(ours.error, other.error)
    evidence = _against(ours, other, error, unit, digits)
    # Unlike in `difference`, a small loss is no loss.
    if math.isnan(error):
        verdict = UNKNOWN_ERROR
    elif ours.value >= other.value - error:
        verdict = REPRODUCED
    else:
        verdict = NOT_REPRODUCED
    return Claim(source, statement, evidence, verdict)


def share(source: str, statement: str, holds: Sequence[bool]) -> Claim:
    """Check a claim about every matrix or layer: it holds in more than half of ours."""
    count = sum(map(bool, holds))
    # Half of them is no majority.
    verdict = REPRODUCED if 2 * count > len(holds) else NOT_REPRODUCED
    return Claim(source, statement, f"{count} of {len(holds)}", verdict)


def verdict_on(difference: float, error: float = 0.0) -> str:
    """Return the verdict on a difference that is above 0 in the paper.

    `error` is its standard error, NaN if there is none.
    """
    if math.isnan(error):
        return UNKNOWN_ERROR
    if abs(difference) <= error:
        return WITHIN_ERROR
    return REPRODUCED if difference > 0 else NOT_REPRODUCED


def printed_value(value: float, printed: str) -> str:
    """Return the verdict on a number that a paper prints as `0.35M` or `175,255.8M`."""
    # Exact decimals: a float's last digit could decide the verdict.
    digits, scale = _printed_parts(printed)
    ours = Decimal(value) / scale
    if ours.quantize(digits, ROUND_HALF_UP) == digits:
        return EQUAL
    if ours.quantize(digits, ROUND_DOWN) == digits:
        return TRUNCATED
    return UNEXPLAINED


def near_value(value: float, printed: str) -> str:
    """Return the verdict on a value beside a printed one, such as `350` or `0.67`.

    It is equal or truncated at the last printed digit, near (within 10 %), or
    unexplained.
    """
    published = Decimal(printed)
    exact = Decimal(value)
    # `quantize` rounds to the printed number of digits.
    if exact.quantize(published, ROUND_HALF_UP) == published:
        return EQUAL
    if exact.quantize(published, ROUND_DOWN) == published:
        return TRUNCATED
    is_near = abs(exact / published - 1) <= Decimal("0.1")
    return NEAR if is_near else UNEXPLAINED


def parse_printed(printed: str) -> float:
    """Return the number that is printed as `0.35M` or `175,255.8M`."""
    digits, scale = _printed_parts(printed)
    return float(digits * scale)


def _printed_parts(printed: str) -> tuple[Decimal, int]:
    """The number before the letter, and what the letter stands for."""
    scale = SCALES[printed[-1]]
    digits = printed[:-1].replace(",", "")
    return Decimal(digits), scale


def _against(ours: Score, other: Score, error: float, unit: str, digits: int) -> str:
    """`80.0 against 70.0 ± 5.0 %`."""
    text = f"{ours.value:.{digits}f} against {other.value:.{digits}f}"
    # One seed has no error, and nothing is said of it here.
    if not math.isnan(error):
        text += f" ± {error:.{digits}f}"
    return text + unit
