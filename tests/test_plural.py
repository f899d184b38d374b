"""One thing is no several."""

import pytest

from lora_jax.plural import counted


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (2048, "2,048 rows")],
)
def test_a_noun_follows_its_count(count, text):
    assert counted(count, "row") == text


def test_a_plural_may_be_another_word():
    assert counted(1, "class", "classes") == "1 class"
    assert counted(3, "class", "classes") == "3 classes"
