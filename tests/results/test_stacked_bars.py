"""Stacked bars: what is drawn, and what is refused."""

from typing import Any

import numpy as np
import pytest

from lora_jax.results import stacked_bars


class TestStacks:
    BAR = stacked_bars.Bar("full", {"weights": 3.0, "gradients": 1.0}, 5.0)

    def test_parts_are_stacked_and_the_total_lies_beneath(self):
        figure = stacked_bars.stacked(
            [
                [
                    stacked_bars.Panel("a", [self.BAR]),
                    stacked_bars.Panel("b", [self.BAR]),
                ]
            ],
            xlabel="MB",
            total_label="compiled",
        )
        patches: Any = figure.axes[0].patches
        bars = [(bar.get_x(), bar.get_width()) for bar in patches]
        np.testing.assert_allclose(bars, [(0, 3), (3, 1), (0, 5)])
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [
            "weights",
            "gradients",
            "compiled",
        ]

    def test_what_cannot_be_drawn_is_said(self):
        with pytest.raises(
            ValueError,
            match=r"expected rows with equally many panels, at least one; got \[\]",
        ):
            stacked_bars.stacked([], xlabel="MB", total_label="compiled")
        wrong = [
            stacked_bars.Panel("a", []),
            stacked_bars.Panel("b", [stacked_bars.Bar("full", {"weights": -1.0})]),
        ]
        with pytest.raises(
            ValueError,
            match="'a': expected bars, got none\n'b', 'full': expected weights of 0 or more, got -1",
        ):
            stacked_bars.stacked([wrong], xlabel="MB", total_label="compiled")
