"""The paper's claims on subspace similarity (LoRA, section 7.2), tested on maps.

Each claim is about the directions that two trainings share, and is tested on every
matrix and layer.
"""

from collections.abc import Iterable

from lora_jax.results.claims import Claim, share
from lora_jax.results.pages.similarity_maps import RANDOM, Maps, Phi, shared_directions

SHARED = 0.25  # φ(1, 1) of directions whose cosine is 1/2
FEWEST = 0.5  # n, in directions: less is none
LARGEST_SHARE = 4  # n is at most r / 4 where two trainings share few directions


def claims(source: str, kind: str, maps: Maps) -> list[Claim]:
    """Return the paper's effects (section 7.2), and how many maps have each.

    `kind` is "rank" for two ranks of one seed, "seed" for two seeds of one rank.
    """
    tests = _between_ranks(maps) if kind == "rank" else _between_seeds(maps)
    result = []
    for statement, holds in tests.items():
        # Without random matrices, or without both of query and value, no test is made.
        if holds:
            result.append(share(source, statement, holds))
    return result


def _between_ranks(maps: Maps) -> dict[str, list[bool]]:
    """Whether each claim on two ranks holds, map by map."""
    # φ(r, r) is the last of the diagonal.
    falls = []
    for phi in maps.trained:
        diagonal = phi.diagonal()
        falls.append(diagonal[-1] < diagonal[0])
    value_above_query = []
    for query, value in _query_and_value(maps):
        # φ(1, 1) of either matrix.
        top_of_query = query[0, 0]
        top_of_value = value[0, 0]
        value_above_query.append(top_of_value > top_of_query)
    return {
        "two ranks share the top direction (φ(1,1) >= 0.25)": _top(maps.trained),
        "the others are shared less (φ(r,r) < φ(1,1))": falls,
        "the top direction is shared more by ΔWv than by ΔWq": value_above_query,
    }


def _between_seeds(maps: Maps) -> dict[str, list[bool]]:
    """Whether each claim on two seeds holds, map by map."""
    # n, the number of shared directions, beside the r that there are.
    width = maps.width
    few = []
    for phi in maps.trained:
        count = shared_directions(phi, width)
        limit = len(phi) / LARGEST_SHARE
        few.append(FEWEST <= count <= limit)
    query_above_value = []
    for query, value in _query_and_value(maps):
        of_query = shared_directions(query, width)
        of_value = shared_directions(value, width)
        query_above_value.append(of_query > of_value)
    # The control: what two random matrices share.
    none = []
    random = maps.phi.get(RANDOM, {})
    for phi in random.values():
        count = shared_directions(phi, width)
        none.append(abs(count) < FEWEST)
    return {
        "two seeds share the top direction (φ(1,1) >= 0.25)": _top(maps.trained),
        "they share few in all (0.5 <= n <= r/4)": few,
        "they share more of ΔWq than of ΔWv (n)": query_above_value,
        "random matrices share none (|n| < 0.5)": none,
    }


def _top(trained: Iterable[Phi]) -> list[bool]:
    """Whether the first directions of each map are shared."""
    return [phi[0, 0] >= SHARED for phi in trained]


def _query_and_value(maps: Maps) -> list[tuple[Phi, Phi]]:
    """The maps of both matrices, of the layers that have both."""
    query = maps.phi.get("ΔWq", {})
    value = maps.phi.get("ΔWv", {})
    pairs = []
    for layer in query:
        if layer in value:
            pairs.append((query[layer], value[layer]))
    return pairs
