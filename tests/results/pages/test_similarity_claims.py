"""The paper's effects in its own maps, and in made-up ones without them."""

import numpy as np
import pytest

from lora_jax.results.claims import REPRODUCED
from lora_jax.results.pages import similarity_maps as maps
from lora_jax.results.pages.similarity_claims import claims

SOURCE = "LoRA Figures 3, 6"


@pytest.mark.parametrize("kind", ["rank", "seed"])
def test_the_paper_passes_the_tests_it_is_put_to(kind):
    result = claims(SOURCE, kind, maps.published(kind))
    assert {claim.verdict for claim in result} == {REPRODUCED}


def made_up(width=100, **phi):
    by_matrix = {name: {1: np.array(values)} for name, values in phi.items()}
    return maps.Maps("ours", width, 1, 1, by_matrix)


def evidence(kind, similarities):
    result = []
    for claim in claims(SOURCE, kind, similarities):
        result.append((claim.evidence, claim.verdict == REPRODUCED))
    return result


def test_an_effect_that_is_not_there_is_not_reproduced():
    chance = [[0.01, 0.02], [0.02, 0.02]]
    by_chance = made_up(ΔWq=chance, ΔWv=chance)
    assert evidence("rank", by_chance) == [
        ("0 of 2", False),
        ("0 of 2", False),
        ("0 of 1", False),
    ]
    shared = made_up(ΔWq=[[0.3, 0.3], [0.3, 0.2]], ΔWv=[[0.6, 0.6], [0.6, 0.7]])
    assert evidence("rank", shared) == [
        ("2 of 2", True),
        ("1 of 2", False),
        ("1 of 1", True),
    ]


def test_shared_directions_are_counted_beyond_those_of_random_ones():
    rank, width = 8, 100
    # One direction in common, beyond the 0.64 of chance.
    few = np.full((rank, rank), (1 + rank * rank / width) / rank)
    random = np.full((rank, rank), rank / width)
    similarities = made_up(width, ΔWq=few, random=random)
    assert evidence("seed", similarities) == [
        ("0 of 1", False),
        ("1 of 1", True),
        ("1 of 1", True),
    ]
