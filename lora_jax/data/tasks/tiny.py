"""Tiny made-up tasks, for smoke runs and tests.

`tiny` asks whether a sentence of a few words is kind. `tiny-nlg` asks for a sentence
that says some facts. Both are the same in every run.
"""

import itertools
import random
from collections.abc import Sequence

import numpy as np

from lora_jax.data.read_table import Table
from lora_jax.data.task import Examples, Task
from lora_jax.data.text_pairs import generation_task

LABELS = ("unkind", "kind")
WORDS = (("awful", "dull", "weak", "bad"), ("great", "sharp", "warm", "good"))
FILLER = ("a", "film", "with", "some", "odd", "ideas", "and", "one", "scene")
NAMES = ("Blue Pot", "Red Hen", "Old Inn", "Big Wok", "Sea View", "Two Figs")
FOODS = ("thai", "greek", "indian", "french")
AREAS = ("centre", "riverside")
ORIGIN = "made up, seed 0"


def load() -> Task:
    """Return 64 / 32 / 32 sentences for train / validation / test."""
    rng = random.Random(0)
    # The splits draw from one generator, in this order.
    splits = {
        "train": _draw(rng, 64),
        "validation": _draw(rng, 32),
        "test": _draw(rng, 32),
    }
    return Task("tiny", LABELS, ("accuracy",), splits, ORIGIN)


def load_nlg() -> Task:
    """Return 64 / 16 / 16 rows for train / validation / test.

    They are 32, 8 and 8 sources with two targets each; no source is in two splits.
    """
    facts = list(itertools.product(NAMES, FOODS, AREAS))
    random.Random(0).shuffle(facts)
    tables = {
        "train": _sentences("train", facts[:32]),
        "validation": _sentences("validation", facts[32:40]),
        "test": _sentences("test", facts[40:]),
    }
    return generation_task("tiny-nlg", ("bleu",), tables, ORIGIN)


def _draw(rng: random.Random, rows: int) -> Examples:
    labels = [row % 2 for row in range(rows)]
    text = []
    for label in labels:
        # One word decides, anywhere among four that do not.
        words = [*rng.choices(FILLER, k=4), rng.choice(WORDS[label])]
        text.append(" ".join(rng.sample(words, k=5)))
    return Examples(text, None, np.array(labels, np.int32))


def _sentences(split: str, facts: Sequence[tuple[str, str, str]]) -> Table:
    columns: dict[str, list[str]] = {"source": [], "target": []}
    for name, food, area in facts:
        source = f"name : {name} | food : {food} | area : {area}"
        columns["source"] += [source, source]
        columns["target"] += [
            f"{name} serves {food} food in the {area}",
            f"in the {area} is {name} with {food} food",
        ]
    numbers = range(1, len(columns["source"]) + 1)
    return Table(f"tiny-nlg {split}", "row", numbers, columns)
