"""Rotten Tomatoes: reviews without plots, split by film."""

import bz2

import numpy as np
import pandas as pd
import pytest

from lora_jax import data, download
from lora_jax.data.tasks import rotten_tomatoes
from tests.data.files import sizes


def test_rotten_tomatoes_drops_plots_and_splits_by_film(monkeypatch):
    rows = []
    for film in range(60):
        for category in ("fresh", "rotten", "plot"):
            rows.append((category, f" {category} {film} ", f"film {film}"))
    frame = pd.DataFrame(rows, columns=["category", "text", "movie_name"])
    packed = bz2.compress(frame.to_csv(index=False).encode())
    monkeypatch.setattr(download, "read_member", lambda *_: packed)
    task = data.load("rotten-tomatoes")
    films = []
    for examples in task.splits.values():
        films.append({text.split()[1] for text in examples.text})
    assert list(task.splits) == ["train", "validation", "test"]
    # No film is in two splits.
    assert sum(map(len, films)) == 60
    examples = task.splits["train"]
    labels = [task.labels[i] for i in examples.label]
    assert labels == [text.split()[0] for text in examples.text]
    assert all(text == text.strip() for text in examples.text)
    assert examples.label.dtype == np.int32


@pytest.mark.real
def test_rotten_tomatoes_has_its_rows():
    task = rotten_tomatoes.load()
    assert sizes(task) == {"train": 10390, "validation": 1404, "test": 1014}
    assert sum(examples.label.sum() for examples in task.splits.values()) == 7403
