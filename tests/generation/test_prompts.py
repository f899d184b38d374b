"""Prompts: how they are padded, and which are rejected."""

import numpy as np
import pytest

from lora_jax.generation.prompts import check_prompts, pad_prompts
from tests.generation.greedy import NEW, PROMPTS, small_model


class TestPadding:
    def test_is_on_the_left_and_prompts_are_repeated(self):
        tokens, start = pad_prompts([[7, 8, 9], [5]], rows=3, longest=100)
        assert tokens.shape == (3, 32)
        assert start.tolist() == [29, 31, 29]
        assert tokens[:, 28:].tolist() == [[0, 7, 8, 9], [0, 0, 0, 5], [0, 7, 8, 9]]
        assert not tokens[:, :28].any()

    @pytest.mark.parametrize(
        "size, longest, width",
        [(1, 99, 32), (32, 99, 32), (33, 99, 64), (33, 40, 40), (3, 5, 5)],
    )
    def test_widths_are_few_and_leave_room(self, size, longest, width):
        tokens, _ = pad_prompts([[1] * size], rows=1, longest=longest)
        assert tokens.shape == (1, width)


class TestErrors:
    def check(self, prompts, new_tokens=NEW):
        check_prompts(small_model().config, prompts, new_tokens)

    def test_all_wrong_prompts_are_listed(self):
        with pytest.raises(ValueError) as caught:
            self.check([[1], [], [24], [1, -1], [1] * 33, []])
        assert str(caught.value) == (
            "expected prompts of 1 to 32 tokens that the model has, "
            "got 2 empty (the first: prompt 1); "
            "2 with token ids outside 0 … 23 (the first: prompt 2); "
            "1 longer than 32 tokens (40 positions less 8 new tokens) "
            "(the first: prompt 4)"
        )

    @pytest.mark.parametrize(
        "prompts, value",
        [
            ([5, 6], "5"),
            ("hello", "'hello'"),
            (["hello"], "'hello'"),
            ([[5.5, 6.0]], "[5.5, 6.0]"),
            ([[[1], [2]]], "[[1], [2]]"),
            ([[1, [2]]], "[1, [2]]"),
        ],
    )
    def test_what_are_no_prompts(self, prompts, value):
        with pytest.raises(ValueError) as caught:
            self.check(prompts)
        assert str(caught.value) == (
            "expected prompts that are lists of token ids, one list each, "
            f"got {value} for one"
        )

    def test_more_new_tokens_than_positions(self):
        message = (
            "^new_tokens: expected fewer new tokens than the model's 40 positions, "
            "got 40$"
        )
        with pytest.raises(ValueError, match=message):
            self.check(PROMPTS, new_tokens=40)

    @pytest.mark.parametrize("prompts", [[], np.zeros((0, 3), int)])
    def test_no_prompts(self, prompts):
        with pytest.raises(ValueError, match=r"that the model has, got none$"):
            self.check(prompts)
