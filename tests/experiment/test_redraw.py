"""A page is drawn while an experiment runs, but seldom, and never at a training's cost."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_jax.experiment import redraw
from lora_jax.results import RowFile

OUT = Path("out")


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


class FakeExperiment:
    """Counts its drawings; `error` is raised by the next ones."""

    def __init__(self):
        self.drawings = 0
        self.error: Exception | None = None

    def draw(self, out: Path) -> list[Path]:
        assert out == OUT
        self.drawings += 1
        if self.error:
            raise self.error
        return [out / "README.md"]

    def file(self, out: Path) -> RowFile:
        return RowFile(out / "fake.jsonl")


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(redraw, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def experiment() -> FakeExperiment:
    return FakeExperiment()


def test_a_row_is_drawn_if_the_last_drawing_was_15_seconds_ago(clock, experiment):
    page = redraw.Redraw(experiment, OUT)
    drawings = []
    for seconds in (100, 114, 115, 116, 129, 131):
        clock.seconds = seconds
        page.row_recorded()
        drawings.append(experiment.drawings)
    assert drawings == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("error", [OSError("full"), ValueError("no figure yet")])
def test_what_cannot_be_drawn_yet_is_tried_again_at_the_next_row(
    clock, experiment, error
):
    page = redraw.Redraw(experiment, OUT)
    clock.seconds = 120
    experiment.error = error
    page.row_recorded()
    experiment.error = None
    page.row_recorded()
    assert experiment.drawings == 2


def test_an_error_of_the_program_is_not_hidden(clock, experiment):
    page = redraw.Redraw(experiment, OUT)
    clock.seconds = 120
    experiment.error = KeyError("rank")
    with pytest.raises(KeyError):
        page.row_recorded()


def test_at_the_end_it_is_drawn_whenever_it_was_last(clock, experiment):
    assert redraw.Redraw(experiment, OUT).final() == [OUT / "README.md"]


def test_a_full_disk_at_the_end_says_that_the_rows_are_safe(clock, experiment):
    experiment.error = OSError("No space left on device")
    with pytest.raises(OSError) as error:
        redraw.Redraw(experiment, OUT).final()
    assert str(error.value) == (
        "could not draw into out (No space left on device); the rows in "
        "out/fake.jsonl are safe: make room and run the same command again"
    )


def test_rows_that_make_no_page_are_an_error_at_the_end(clock, experiment):
    experiment.error = ValueError("two settings")
    with pytest.raises(ValueError, match="two settings"):
        redraw.Redraw(experiment, OUT).final()
