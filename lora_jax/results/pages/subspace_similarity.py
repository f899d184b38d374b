"""The page of LoRA's Figures 3, 4, 6 and 7: directions that two trainings share.

A comparison is of one kind: "rank" of two ranks of one seed, "seed" of two seeds of one
rank. A group has the rows of one comparison; the control with random matrices belongs
to the seeds. The maps are those of `similarity_maps`; they are drawn in
`similarity_figures`, and tested in `similarity_claims`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lora_jax.results import claims, pictures, report
from lora_jax.results.claims import Claim
from lora_jax.results.grouping import Group, groups, short_name
from lora_jax.results.pages import similarity_claims, similarity_figures
from lora_jax.results.pages import similarity_maps as maps
from lora_jax.results.report import Block, Section
from lora_jax.results.rows import Row
from lora_jax.results.tables import table as text_table

# Each kind of comparison, and the figures that the paper has of it.
SOURCES = {"rank": "LoRA Figures 3, 6", "seed": "LoRA Figures 4, 7"}
# Of the figures' files: the first kind of comparison has the page's first figure.
SUFFIXES = {"rank": "", "seed": "seeds"}

# What tells one line of the table from another: a map, and its i.
CELL = ("model", "data", "side", "comparison", "matrix", "layer", "i")

MEANING_OF_N = (
    "n = r (φ(r,r) - r/d) is the number of directions in common beyond those of random "
    "ones."
)
REMARKS = Section(
    "What the paper says of its figures",
    [
        "The text has φ(1,1) > 0.5 at layer 48; the colors of Figure 3 say 0.40 (ΔWq) "
        "and 0.44 (ΔWv). Appendix G calls A's directions left-singular and section 7.2 "
        "right-singular, which depends on how A is stored. Appendix G prints (1 - d²)/p "
        "where 1 - d²/p is meant."
    ],
)


def comparisons(rows: Sequence[Row]) -> list[tuple[str, list[Group]]]:
    """Return the kinds of comparison that there are rows of, each with its groups."""
    result = []
    for kind in SOURCES:
        groups_of_kind = groups_of(rows, kind)
        # While an experiment runs, one of them may have no rows yet.
        if groups_of_kind:
            result.append((kind, groups_of_kind))
    return result


def groups_of(rows: Sequence[Row], kind: str) -> list[Group]:
    """Return the groups of one kind of comparison, those of the input side first."""
    chosen = []
    for group in groups(rows, axes=("comparison", "matrix")):
        is_rank = group.first["config"]["comparison"] == "rank"
        if is_rank == (kind == "rank"):
            chosen.append(group)
    return sorted(chosen, key=_side)


def sections(kind: str, groups_of_kind: Sequence[Group]) -> list[Section]:
    """Return a section for each group: its table beside the paper's, and its settings.

    The first of them also says how the paper's own maps do in the tests.
    """
    result = []
    for group in groups_of_kind:
        heading = _heading(kind, group)
        blocks = _blocks(kind, group)
        # Once is enough: the paper's maps are those of all sections.
        if not result:
            blocks.insert(0, paper_check(kind))
        result.append(Section(heading, blocks))
    return result


def paper_check(kind: str) -> str:
    """Return a sentence on how the paper's own maps do in the tests."""
    # The bounds were chosen so that they pass.
    source = SOURCES[kind]
    published = maps.published(kind)
    texts = []
    for claim in similarity_claims.claims(source, kind, published):
        texts.append(f"{claim.statement}: {claim.evidence}")
    listed = "; ".join(texts)
    return f"The paper's maps in the same tests: {listed}."


def group_claims(kind: str, group: Group) -> list[Claim]:
    """Return the paper's effects, and how many maps of the group have each."""
    ours = maps.ours(group.rows)
    return similarity_claims.claims(SOURCES[kind], kind, ours)


def kind_claims(kind: str, groups_of_kind: Sequence[Group]) -> list[Claim]:
    """Return the claims of every group of one kind."""
    named = _named(kind, groups_of_kind)
    return claims.of_groups(named, named, partial(group_claims, kind))


def pictures_of(comparisons: Sequence[tuple[str, list[Group]]]) -> dict[str, Any]:
    """Return the pictures of every group, as fields of a report."""
    fields: dict[str, Any] = {"figures": {}, "captions": {}, "undrawn": []}
    for kind, groups_of_kind in comparisons:
        named = _named(kind, groups_of_kind)
        drawn = pictures.of_groups(named, named, partial(figures, kind))
        fields["figures"] |= drawn["figures"]
        fields["captions"] |= drawn["captions"]
        fields["undrawn"] += drawn["undrawn"]
    return fields


def _named(kind: str, groups_of_kind: Sequence[Group]) -> list[Group]:
    """The groups by the headings of their sections."""
    return [group._replace(name=_heading(kind, group)) for group in groups_of_kind]


def figures(kind: str, group: Group) -> dict[str, Figure]:
    """Draw the middle layer and all layers, ours and the paper's."""
    sources = [maps.ours(group.rows), maps.published(kind)]
    suffix = SUFFIXES[kind]
    # The suffix of the first kind is empty.
    layers = f"{suffix}_layers".strip("_")
    return {
        suffix: similarity_figures.middle_layer(kind, sources),
        layers: similarity_figures.all_layers(kind, sources),
    }


def _side(group: Group) -> str:
    return group.settings["side"]


def _heading(kind: str, group: Group) -> str:
    """`Two seeds: r = 64 seed 0 against r = 64 seed 1, input side`."""
    texts = []
    for name in ("left", "right"):
        run = group.settings[name]
        texts.append(f"r = {run['rank']} seed {run['seed']}")
    runs = " against ".join(texts)
    return f"Two {kind}s: {runs}, {_side(group)} side"


def _blocks(kind: str, group: Group) -> list[Block]:
    left = group.settings["left"]
    # The settings of a run, to be listed; both runs are alike but for rank and seed.
    run_group = Group("", left, group.rows)
    ours = maps.similarities(maps.ours(group.rows))
    published = maps.similarities(maps.published(kind))
    table = pd.concat([ours, published], ignore_index=True)
    # Maps of other ranks have other φ(i, i): n comes after all of them.
    n = table.pop("n")
    table["n"] = n
    return [
        *report.warning(run_group),
        f"{short_name(left['model'])}, {short_name(left['data'])}. {MEANING_OF_N}",
        text_table(table, digits=4),
        report.settings(run_group),
    ]
