"""Tiny made-up tasks, for smoke runs and tests: is a sentence of a few words kind, and which sentence says these facts?"""

import itertools
import random
from collections.abc import Sequence

import numpy as np

from lora_jax.data import text_pairs
from lora_jax.data.read_table import Table
from lora_jax.data.task import Examples, Task, refuse_split_seed

WORDS = (("awful", "dull", "weak", "bad"), ("great", "sharp", "warm", "good"))
FILLER = ("a", "film", "with", "some", "odd", "ideas", "and", "one", "scene")
NAMES = ("Blue Pot", "Red Hen", "Old Inn", "Big Wok", "Sea View", "Two Figs")
FOODS = ("thai", "greek", "indian", "french")
AREAS = ("centre", "riverside")


def load(*, split_seed: int = 0) -> Task:
    """64 / 32 / 32 sentences for train / validation / test, always the same."""
    refuse_split_seed("tiny", split_seed)
    rng = random.Random(0)
    splits = {
        name: _draw(rng, rows)
        for name, rows in (("train", 64), ("validation", 32), ("test", 32))
    }
    return Task("tiny", ("unkind", "kind"), ("accuracy",), splits, "made up, seed 0")


def _draw(rng: random.Random, rows: int) -> Examples:
    label = [row % 2 for row in range(rows)]
    text = [
        " ".join(rng.sample([*rng.choices(FILLER, k=4), rng.choice(WORDS[kind])], k=5))
        for kind in label
    ]
    return Examples(text, None, np.array(label, np.int32))


def load_nlg(*, split_seed: int = 0) -> Task:
    """64 / 16 / 16 rows for train / validation / test: 32, 8 and 8 sources, no source in two, with two targets each."""
    refuse_split_seed("tiny-nlg", split_seed)
    facts = list(itertools.product(NAMES, FOODS, AREAS))
    random.Random(0).shuffle(facts)
    parts = {"train": facts[:32], "validation": facts[32:40], "test": facts[40:]}
    tables = {split: _told(split, part) for split, part in parts.items()}
    return text_pairs.task("tiny-nlg", ("bleu",), tables, "made up, seed 0")


def _told(split: str, facts: Sequence[tuple[str, str, str]]) -> Table:
    rows = [
        (f"name : {name} | food : {food} | area : {area}", target)
        for name, food, area in facts
        for target in (
            f"{name} serves {food} food in the {area}",
            f"in the {area} is {name} with {food} food",
        )
    ]
    columns = {
        "source": [source for source, _ in rows],
        "target": [target for _, target in rows],
    }
    return Table(f"tiny-nlg {split}", "row", range(1, len(rows) + 1), columns)
