"""Drawing an experiment's page while it runs."""

import time
from pathlib import Path
from typing import Any

SECONDS_BETWEEN = 15.0  # drawing takes a second or two


class Redraw:
    """Draws the page when rows come in, but not all the time."""

    def __init__(self, experiment: Any, out: Path):
        self.experiment = experiment
        self.out = out
        self.last_time = time.monotonic()

    def row_recorded(self) -> None:
        """Draw what there is, unless that was done a moment ago.

        Neither a full disk nor rows that do not make a figure yet are a reason to stop a
        training: only the final drawing complains.
        """
        # The first row is drawn at once only if it took long enough.
        if time.monotonic() - self.last_time < SECONDS_BETWEEN:
            return
        # Rows are read from the file, so those of other processes are drawn too.
        try:
            self.experiment.draw(self.out)
        except (OSError, ValueError):
            return
        self.last_time = time.monotonic()

    def final(self) -> list[Path]:
        """Draw the page.

        Raises:
            OSError: the page cannot be written; the rows are safe.
        """
        try:
            return self.experiment.draw(self.out)
        except OSError as error:
            path = self.experiment.file(self.out).path
            raise OSError(
                f"could not draw into {self.out} ({error}); the rows in {path} are "
                "safe: make room and run the same command again"
            ) from error
