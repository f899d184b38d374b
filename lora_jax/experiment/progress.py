"""What a running study says: a live display on a terminal, plain lines into a file or a pipe."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lora_jax import train


class Display:
    """Cells done and to come, and the steps of the current one. Time left is the mean time of the steps and cells done."""

    def __init__(self, cells: int, live: Progress | None):
        self.cells, self.live, self.done = cells, live, 0
        self.began = self.began_cell = self.said = time.monotonic()
        self.label = ""
        if live:
            self.bars = (
                live.add_task(f"0/{cells}", total=cells, note=""),
                live.add_task("", total=None, note=""),
            )

    def start(self, label: str) -> None:
        """A cell begins."""
        self.label, self.began_cell = label, time.monotonic()
        if self.live:
            self.live.reset(self.bars[1])
            self.live.console.print(label, highlight=False, markup=False)
        else:
            print(f"[{self.done + 1}/{self.cells}] {label} begins", flush=True)

    def step(self, at: train.Progress) -> None:
        """A step is done. Plain output has a line every ten seconds."""
        now = time.monotonic()
        speed = at.tokens / max(now - self.began_cell, 1e-9)
        loss = "" if math.isnan(at.loss) else f"loss {at.loss:.3f}  "
        note, left = f"{loss}{speed:,.0f} tokens/s", self._left(at.step / at.steps)
        if self.live:
            self.live.update(self.bars[0], note=f"cells  {left}")
            self.live.update(
                self.bars[1],
                completed=at.step,
                total=at.steps,
                description=f"{at.step}/{at.steps}",
                note=note,
            )
        elif now - self.said > 10:
            self.said = now
            print(
                f"  {self.label}: step {at.step}/{at.steps}  {note}  {left}", flush=True
            )

    def finish(self, result: str) -> None:
        """The cell is done; its result stays on the screen."""
        self.done += 1
        line = f"[{self.done}/{self.cells}] {self.label}: {result}"
        if self.live:
            self.live.update(
                self.bars[0],
                completed=self.done,
                description=f"{self.done}/{self.cells}",
            )
            self.live.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def _left(self, share: float) -> str:
        done = self.done + share
        seconds = (time.monotonic() - self.began) / done * (self.cells - done)
        return f"{clock(seconds)} left"


def clock(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def display(cells: int) -> Iterator[Display]:
    """A display for that many cells, live when the output is a terminal."""
    if not sys.stdout.isatty():
        yield Display(cells, None)
        return
    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(16),
        TextColumn("{task.fields[note]}"),
    ]
    with Progress(*columns, console=Console()) as live:
        yield Display(cells, live)
