"""A running experiment reports lines in a file, and bars on a terminal."""

import io
import math
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from lora_jax import train
from lora_jax.experiment import progress
from lora_jax.experiment.progress import Display


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, in seconds."""
    clock = SimpleNamespace(seconds=0.0)
    monotonic = SimpleNamespace(monotonic=lambda: clock.seconds)
    monkeypatch.setattr(progress, "time", monotonic)
    return clock


def step(number: int, tokens: int, loss: float = 0.69) -> train.Progress:
    """A step of four."""
    return train.Progress(1, number, 4, loss, tokens)


class TestLines:
    def test_a_run_has_a_line_when_it_begins_and_one_when_it_ends(self, clock, capsys):
        display = Display(2, None)
        display.start("rank=1")
        display.finish("test/accuracy 0.8000")
        display.start("rank=2")
        display.finish("diverged")
        assert capsys.readouterr().out.splitlines() == [
            "[1/2] rank=1 begins",
            "[1/2] rank=1: test/accuracy 0.8000",
            "[2/2] rank=2 begins",
            "[2/2] rank=2: diverged",
        ]

    def test_a_step_has_a_line_after_ten_seconds(self, clock, capsys):
        display = Display(2, None)
        display.start("rank=1")
        capsys.readouterr()
        for number, seconds in enumerate((5, 10, 20, 29), start=1):
            clock.seconds = seconds
            display.step(step(number, 100 * number))
        # From step 1 at 5 s, which compiled, to step 3 at 20 s: 7.5 s a step, and 5
        # steps of both runs are left.
        line = "  rank=1: step 3/4  loss 0.690  13 tokens/s  38 s left\n"
        assert capsys.readouterr().out == line

    def test_the_first_report_has_neither_loss_nor_speed(self, clock, capsys):
        display = Display(1, None)
        display.start("rank=1")
        clock.seconds = 20
        display.step(step(1, 30_000, math.nan))
        line = capsys.readouterr().out.splitlines()[1]
        assert line == "  rank=1: step 1/4"

    def test_the_speed_is_the_current_runs(self, clock, capsys):
        display = Display(2, None)
        display.start("rank=1")
        clock.seconds = 100
        display.finish("done")
        display.start("rank=2")
        clock.seconds = 110
        display.step(step(1, 100))
        clock.seconds = 121
        display.step(step(2, 210))
        # Two steps of 11 s, but the run before took 100 s: it scored, too.
        line = capsys.readouterr().out.splitlines()[-1]
        assert line == "  rank=2: step 2/4  loss 0.690  10 tokens/s  79 s left"

    def test_generated_texts_are_counted_and_the_first_batch_is_no_measure(
        self, clock, capsys
    ):
        display = Display(1, None)
        display.start("rank=1")
        for number in range(1, 5):
            display.step(step(number, 100 * number))
        for seconds, done in ((20, 0), (120, 8), (140, 16)):
            clock.seconds = seconds
            display.texts(done, 96)
        lines = capsys.readouterr().out.splitlines()[1:]
        # 8 texts in 20 s: 80 texts take 200 s.
        assert lines == [
            "  rank=1: text 0/96",
            "  rank=1: text 8/96",
            "  rank=1: text 16/96  3 min 20 s left",
        ]


class TestBars:
    def test_runs_steps_loss_and_speed_fit_into_60_columns(self):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=60, _environ={})
        columns = ("{task.description}", "{task.fields[note]}")
        with Bars(*columns, console=console, auto_refresh=False) as live:
            display = Display(2, live)
            display.start("query r=1")
            display.step(step(1, 100, math.nan))
            display.step(step(2, 200))
            live.refresh()
            display.finish("test/accuracy 0.8000")
            live.refresh()
        text = screen.getvalue()
        for part in ("query r=1", "2/4", "loss 0.690", "tokens/s", "left", "1/2"):
            assert part in text
        assert "[1/2] query r=1: test/accuracy 0.8000" in text

    def test_the_bar_moves_with_the_texts(self):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=60, _environ={})
        columns = ("{task.description}", "{task.fields[note]}")
        with Bars(*columns, console=console, auto_refresh=False) as live:
            display = Display(1, live)
            display.start("query r=1")
            display.step(step(4, 400))
            display.texts(8, 96)
            (_, bar) = live.tasks
            assert (bar.completed, bar.total) == (8, 96)
            live.refresh()
        assert "8/96" in screen.getvalue()
        assert "texts" in screen.getvalue()

    def test_a_label_is_printed_as_it_is(self):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=60, _environ={})
        with Bars(console=console, auto_refresh=False) as live:
            # Brackets are markup to rich.
            Display(1, live).start("layers=[0]")
        assert "layers=[0]" in screen.getvalue()


class TestDisplay:
    def test_a_file_has_lines(self, capsys):
        with progress.display(1) as display:
            assert display.live is None
            display.start("rank=1")
        assert capsys.readouterr().out == "[1/1] rank=1 begins\n"

    def test_a_terminal_has_bars(self, monkeypatch):
        screen = io.StringIO()
        monkeypatch.setattr(screen, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdout", screen)
        with progress.display(3) as display:
            assert display.live is not None
            display.start("rank=1")
        assert "rank=1" in screen.getvalue()
        assert "0/3" in screen.getvalue()
