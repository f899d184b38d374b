"""A tiny made-up task, for smoke runs and tests: is a sentence of a few words kind or unkind?"""

import random

import numpy as np

from lora_jax.data.tasks import Examples, Task, refuse_split_seed

WORDS = (("awful", "dull", "weak", "bad"), ("great", "sharp", "warm", "good"))
FILLER = ("a", "film", "with", "some", "odd", "ideas", "and", "one", "scene")


def load(*, split_seed: int = 0) -> Task:
    """64 / 32 / 32 sentences for train / validation / test, always the same."""
    refuse_split_seed("tiny", split_seed)
    rng = random.Random(0)
    splits = {name: _draw(rng, rows) for name, rows in (("train", 64), ("validation", 32), ("test", 32))}
    return Task("tiny", ("unkind", "kind"), ("accuracy",), splits, "made up, seed 0")


def _draw(rng: random.Random, rows: int) -> Examples:
    label = [row % 2 for row in range(rows)]
    text = [" ".join(rng.sample([*rng.choices(FILLER, k=4), rng.choice(WORDS[kind])], k=5)) for kind in label]
    return Examples(text, None, np.array(label, np.int32))
