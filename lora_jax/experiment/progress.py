"""What a running experiment reports: bars on a terminal, lines in a file or a pipe."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lora_jax import train
from lora_jax.results.report import clock

SECONDS_BETWEEN_LINES = 10


class Pace:
    """The time of one step, or text, since the first report.

    What came before is left out: the first step compiles, which takes as long as a
    hundred others.
    """

    def __init__(self, done: int):
        self.start_time = time.monotonic()
        self.start = done

    def seconds(self, done: int) -> float | None:
        """Return the mean seconds of one; None before there is a second report."""
        if done == self.start:
            return None
        return (time.monotonic() - self.start_time) / (done - self.start)


class Display:
    """Runs done and to come, and the steps or the texts of the current one.

    The time left is estimated from the pace of what is going on, and from the mean time
    of the runs that are done.
    """

    def __init__(self, runs: int, live: Progress | None):
        self.runs = runs
        self.live = live
        self.done = 0
        self.label = ""
        self.cells = 1
        now = time.monotonic()
        self.run_start_time = now
        self.last_line_time = now
        self.paces: dict[str, Pace] = {}  # of the current run: its steps, its texts
        self.tokens = 0  # before the pace of the steps begins
        self.finished_seconds = 0.0  # of the runs that are done
        # Two bars: one of runs, one of the steps of the current run.
        if live:
            self.run_bar = live.add_task(f"0/{runs}", total=runs, note="")
            self.step_bar = live.add_task("", total=None, note="")

    def start(self, label: str, cells: int = 1) -> None:
        """Report that a run begins, or that `cells` runs do that are trained together."""
        self.label = label
        self.cells = cells
        self.run_start_time = time.monotonic()
        self.paces = {}
        # In a file nothing is drawn over: what began has a line of its own.
        if self.live:
            self.live.reset(self.step_bar)
            self.live.console.print(label, highlight=False, markup=False)
        else:
            print(f"[{self.done + 1}/{self.runs}] {label} begins", flush=True)

    def step(self, progress: train.Progress) -> None:
        """Report that a step is done; plain output has a line every ten seconds."""
        if "step" not in self.paces:
            self.tokens = progress.tokens
        seconds = self._seconds("step", progress.step)
        notes = []
        # Reports between two reads of the loss have none.
        if not math.isnan(progress.loss):
            notes.append(f"loss {progress.loss:.3f}")
        if progress.cells > 1:
            notes.append(f"{progress.cells} cells")
        if seconds:
            steps = progress.step - self.paces["step"].start
            speed = (progress.tokens - self.tokens) / (steps * seconds)
            notes.append(f"{speed:,.0f} tokens/s")
        self._show("step", progress.step, progress.steps, notes)

    def texts(self, done: int, total: int) -> None:
        """Report how many texts are generated; plain output as of steps."""
        self._show("text", done, total, [])

    def finish(self, result: str) -> None:
        """Report that the run is done; its result stays on the screen."""
        self.done += 1
        # Of a population every cell takes its share.
        self.finished_seconds += (time.monotonic() - self.run_start_time) / self.cells
        line = f"[{self.done}/{self.runs}] {self.label}: {result}"
        if self.live:
            description = f"{self.done}/{self.runs}"
            self.live.update(self.run_bar, completed=self.done, description=description)
            self.live.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def _show(self, kind: str, done: int, total: int, notes: list[str]) -> None:
        """Show how far the current run is, in steps or in texts."""
        now = time.monotonic()
        left = self._time_left(kind, done, total)
        count = f"{done}/{total}"
        if self.live:
            # Texts are no steps: the bar begins anew, and says so.
            unit = "" if kind == "step" else f" {kind}s"
            self.live.update(self.run_bar, note=f"runs  {left}")
            self.live.update(
                self.step_bar,
                completed=done,
                total=total,
                description=count,
                note="  ".join(notes) + unit,
            )
        elif now - self.last_line_time > SECONDS_BETWEEN_LINES:
            self.last_line_time = now
            line = "  ".join(filter(None, [f"{kind} {count}", *notes, left]))
            print(f"  {self.label}: {line}", flush=True)

    def _seconds(self, kind: str, done: int) -> float | None:
        """The mean seconds of a step or of a text; None where it is not known yet."""
        # Nothing is done before something has been compiled.
        if not done:
            return None
        pace = self.paces.setdefault(kind, Pace(done))
        return pace.seconds(done)

    def _time_left(self, kind: str, done: int, total: int) -> str:
        """How long all runs still take; empty where nothing is known yet."""
        seconds = self._seconds(kind, done)
        if seconds is None and not self.done:
            return ""
        left = (seconds or 0) * (total - done)
        run_seconds = (seconds or 0) * total
        # A run also scores and writes, which the runs that are done have behind them.
        # Runs that differ in length make this rough.
        if self.done:
            run_seconds = self.cells * self.finished_seconds / self.done
            elapsed = time.monotonic() - self.run_start_time
            left = max(left, run_seconds - elapsed)
        others = max(0, self.runs - self.done - self.cells)
        left += run_seconds / self.cells * others
        return f"{clock(left)} left"


@contextmanager
def display(runs: int) -> Iterator[Display]:
    """Yield a display for that many runs, live when the output is a terminal."""
    # A file or a pipe cannot be drawn over.
    if not sys.stdout.isatty():
        yield Display(runs, None)
        return
    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(16),
        TextColumn("{task.fields[note]}"),
    ]
    with Progress(*columns, console=Console()) as live:
        yield Display(runs, live)
