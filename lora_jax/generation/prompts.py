"""Prompts: what a model can continue, and batches of them padded on the left."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# The least width of a padded batch: short prompts are not worth a program of their own.
MIN_WIDTH = 32


def check_prompts(
    config: Any, prompts: Sequence[Sequence[int]], new_tokens: int
) -> None:
    """Check that a model of this configuration can continue the prompts.

    Raises:
        ValueError: prompts that are no lists of token ids, that are empty, that have
            token ids the model does not have, or that are too long for so many new
            tokens. The message names the first prompt of each kind.
    """
    # Lists of integers first: what follows looks at their numbers.
    _check_types(prompts)
    positions = config.max_positions
    longest = positions - new_tokens
    if longest < 1:
        raise ValueError(
            f"new_tokens: expected fewer new tokens than the model's {positions} "
            f"positions, got {new_tokens}"
        )
    empty, unknown, long = _find_bad_prompts(prompts, config.vocabulary, longest)
    problems = [
        *_problem(empty, "empty"),
        *_problem(unknown, f"with token ids outside 0 … {config.vocabulary - 1}"),
        *_problem(
            long,
            f"longer than {longest} tokens ({positions} positions less {new_tokens} "
            "new tokens)",
        ),
    ]
    # Prompts may be the rows of an array, which has no truth value.
    if len(prompts) == 0:
        problems = ["none"]
    if problems:
        raise ValueError(
            f"expected prompts of 1 to {longest} tokens that the model has, "
            f"got {'; '.join(problems)}"
        )


def pad_prompts(
    prompts: list[Sequence[int]], rows: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch [rows, P] of prompts padded on the left, and where each begins.

    The prompts are repeated to fill all rows. P is a power of two, or `longest` if that
    is less: every other width would be compiled once more.
    """
    # The least power of two that is not below the longest prompt.
    size = max(len(prompt) for prompt in prompts)
    power_of_two = 1 << (size - 1).bit_length()
    width = min(longest, max(MIN_WIDTH, power_of_two))

    # The padding is token 0; it is never attended to.
    tokens = np.zeros((rows, width), np.int32)
    start = np.zeros(rows, np.int32)
    for row in range(rows):
        prompt = prompts[row % len(prompts)]
        start[row] = width - len(prompt)
        tokens[row, start[row] :] = prompt
    return tokens, start


def _check_types(prompts: Any) -> None:
    if isinstance(prompts, str):
        raise _not_ids(prompts)
    for prompt in prompts:
        if not _is_ids(prompt):
            raise _not_ids(prompt)


def _not_ids(prompt: Any) -> ValueError:
    return ValueError(
        "expected prompts that are lists of token ids, one list each, "
        f"got {prompt!r} for one"
    )


def _is_ids(prompt: Any) -> bool:
    try:
        array = np.asarray(prompt)
    except ValueError:  # rows of several lengths
        return False
    if array.ndim != 1:
        return False
    # An empty array has no dtype of its own; empty prompts have a message of theirs.
    return not array.size or np.issubdtype(array.dtype, np.integer)


def _find_bad_prompts(
    prompts: Sequence[Sequence[int]], vocabulary: int, longest: int
) -> tuple[list[int], list[int], list[int]]:
    """Return the indices of empty prompts, of unknown token ids, and of long ones."""
    empty, unknown, long = [], [], []
    for index, prompt in enumerate(prompts):
        if len(prompt) == 0:
            empty.append(index)
        elif min(prompt) < 0 or max(prompt) >= vocabulary:
            unknown.append(index)
        if len(prompt) > longest:
            long.append(index)
    return empty, unknown, long


def _problem(indices: list[int], description: str) -> list[str]:
    if not indices:
        return []
    return [f"{len(indices)} {description} (the first: prompt {indices[0]})"]
