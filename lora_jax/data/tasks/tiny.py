"""Tiny made-up tasks, for smoke runs and tests.

`tiny` asks whether a sentence of a few words is kind. `tiny-nlg` asks for a sentence
that says some facts. Both are the same in every run.
"""

import itertools
import random
from collections.abc import Sequence

import numpy as np

from lora_jax.data.table import Table
from lora_jax.data.task import Examples, Task
from lora_jax.data.text_pairs import generation_task

LABELS = ("unkind", "kind")
# By label: the one word of a sentence that decides.
WORDS = (
    ("awful", "dull", "weak", "bad"),
    ("great", "sharp", "warm", "good"),
)
FILLER = (
    "a",
    "film",
    "with",
    "some",
    "odd",
    "ideas",
    "and",
    "one",
    "scene",
)

# The facts of tiny-nlg: 6 x 4 x 2 = 48 sources.
NAMES = (
    "Blue Pot",
    "Red Hen",
    "Old Inn",
    "Big Wok",
    "Sea View",
    "Two Figs",
)
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
    rng = random.Random(0)
    rng.shuffle(facts)
    # Split by facts: 32 for training, 8 and 8 for the others.
    tables = {
        "train": _sentences("train", facts[:32]),
        "validation": _sentences("validation", facts[32:40]),
        "test": _sentences("test", facts[40:]),
    }
    return generation_task("tiny-nlg", ("bleu",), tables, ORIGIN)


def _draw(rng: random.Random, rows: int) -> Examples:
    labels = []
    text = []
    for row in range(rows):
        # Both labels in turn, so that they are as frequent.
        label = row % 2
        labels.append(label)
        # One word decides, anywhere among four that do not.
        words: list[str] = [*rng.choices(FILLER, k=4), rng.choice(WORDS[label])]
        shuffled = rng.sample(words, k=5)
        text.append(" ".join(shuffled))
    return Examples(text, None, np.array(labels, np.int32))


def _sentences(split: str, facts: Sequence[tuple[str, str, str]]) -> Table:
    sources = []
    targets = []
    for name, food, area in facts:
        # Two sentences of each source, so that scores have two references.
        # Written as E2E's sources are.
        source = f"name : {name} | food : {food} | area : {area}"
        sources.append(source)
        targets.append(f"{name} serves {food} food in the {area}")
        sources.append(source)
        targets.append(f"in the {area} is {name} with {food} food")
    return Table(
        file=f"tiny-nlg {split}",
        unit="row",
        rows=range(1, len(sources) + 1),
        columns={"source": sources, "target": targets},
    )
