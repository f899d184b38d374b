"""What is wrong with options, as the text of one error."""

from dataclasses import dataclass

import pytest

from lora_jax.experiment import check


@dataclass(frozen=True)
class Options:
    batch: int = 0
    length: int = 1
    steps: int = -2


def test_names_must_be_candidates():
    assert check.name_problems("formats", ["a"], ["a", "b"]) == []
    problems = check.name_problems("formats", ["c", "a", "d"], ["a", "b"])
    assert problems == ["formats: expected some of a, b, got c, d"]


def test_no_name_is_a_problem():
    problems = check.name_problems("models", [], ["a", "b"])
    assert problems == ["models: expected some of a, b, got none"]


def test_formats_are_those_of_the_library_unless_others_are_passed():
    check.formats(["nf4"])
    check.formats(["fp32"], ["fp32", "nf4"])
    with pytest.raises(ValueError, match=r"formats: expected some of nf4, .*got fp32"):
        check.formats(["fp32"])


def test_counts_below_one_are_problems():
    problems = check.count_problems(Options(), ["batch", "length", "steps"])
    assert problems == [
        "batch: expected 1 or more, got 0",
        "steps: expected 1 or more, got -2",
    ]


def test_block_sizes_are_powers_of_two():
    assert check.block_problems([32, 64, 4096]) == []
    assert check.block_problems([64, 48, 8192]) == [
        "blocks: expected powers of two from 32 to 4096, got 48",
        "blocks: expected powers of two from 32 to 4096, got 8192",
    ]


def test_all_problems_are_one_error():
    check.raise_all()
    with pytest.raises(ValueError, match=r"^one; two$"):
        check.raise_all("one", "two")
