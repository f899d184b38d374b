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


class Display:
    """Runs done and to come, and the steps of the current one.

    The time left is estimated from the mean time of the steps and runs that are done.
    """

    def __init__(self, runs: int, live: Progress | None):
        self.runs = runs
        self.live = live
        self.done = 0
        self.label = ""
        now = time.monotonic()
        self.start_time = now
        self.run_start_time = now
        self.last_line_time = now
        # Two bars: one of runs, one of the steps of the current run.
        if live:
            self.run_bar = live.add_task(f"0/{runs}", total=runs, note="")
            self.step_bar = live.add_task("", total=None, note="")

    def start(self, label: str) -> None:
        """Report that a run begins."""
        self.label = label
        self.run_start_time = time.monotonic()
        # In a file nothing is drawn over: what began has a line of its own.
        if self.live:
            self.live.reset(self.step_bar)
            self.live.console.print(label, highlight=False, markup=False)
        else:
            print(f"[{self.done + 1}/{self.runs}] {label} begins", flush=True)

    def step(self, progress: train.Progress) -> None:
        """Report that a step is done; plain output has a line every ten seconds."""
        # Compilation is part of it: the speed rises at first.
        now = time.monotonic()
        speed = progress.tokens / max(now - self.run_start_time, 1e-9)
        # Reports between two reads of the loss have none.
        loss = "" if math.isnan(progress.loss) else f"loss {progress.loss:.3f}  "
        note = f"{loss}{speed:,.0f} tokens/s"
        left = self._time_left(progress.step / progress.steps)
        steps = f"{progress.step}/{progress.steps}"
        if self.live:
            self.live.update(self.run_bar, note=f"runs  {left}")
            self.live.update(
                self.step_bar,
                completed=progress.step,
                total=progress.steps,
                description=steps,
                note=note,
            )
        elif now - self.last_line_time > SECONDS_BETWEEN_LINES:
            self.last_line_time = now
            print(f"  {self.label}: step {steps}  {note}  {left}", flush=True)

    def finish(self, result: str) -> None:
        """Report that the run is done; its result stays on the screen."""
        self.done += 1
        line = f"[{self.done}/{self.runs}] {self.label}: {result}"
        if self.live:
            description = f"{self.done}/{self.runs}"
            self.live.update(self.run_bar, completed=self.done, description=description)
            self.live.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def _time_left(self, share: float) -> str:
        # Runs that differ in length make this rough.
        done = self.done + share
        elapsed = time.monotonic() - self.start_time
        return f"{clock(elapsed / done * (self.runs - done))} left"


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
