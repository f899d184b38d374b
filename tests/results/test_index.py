"""The index and the README's table, of reports made by hand."""

import pytest

from lora_jax.results import index
from lora_jax.results.claims import EQUAL, NOT_REPRODUCED, REPRODUCED, Claim
from lora_jax.results.report import Report

LOW = Claim("Paper Table 6", "r = 1 is enough", "60 against 61 %", NOT_REPRODUCED)
BOTH = Claim("Paper Table 6", "both are better than one", "2 of 2", REPRODUCED)
COUNT = Claim("Paper Table 2", "LoRA: 0.3M", "294,912", EQUAL)


def entry(name, *claims, headline=""):
    report = Report(name, "", [], claims=claims, headline=headline)
    return index.Entry(name, f"What of {name}?", report, rows=[])


def cells(text):
    """The cells of a table's lines, without its heading."""
    rows = []
    for line in text.strip().splitlines()[2:]:
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_headline_is_the_claim_that_the_report_names():
    sweep = entry("sweep", LOW, BOTH, headline="better than one")
    assert index.headline(sweep.report) == BOTH
    # The first, where no claim is named, and where the rows lack the one that is.
    assert index.headline(entry("sweep", LOW, BOTH).report) == LOW
    assert index.headline(entry("sweep", LOW, headline="better").report) == LOW


def test_glance_has_a_line_for_each_experiment_with_claims():
    entries = [
        entry("sweep", LOW, BOTH, headline="better than one"),
        entry("own_question"),
        entry("counts", COUNT),
    ]
    assert cells(index.glance(entries, "pages")) == [
        [
            "[sweep](pages/sweep/README.md)",
            "Paper Table 6: both are better than one",
            "2 of 2",
            "reproduced",
            "1 reproduced, 1 not reproduced",
        ],
        [
            "[counts](pages/counts/README.md)",
            "Paper Table 2: LoRA: 0.3M",
            "294,912",
            "equal",
            "1 equal",
        ],
    ]


def test_the_index_has_every_experiment():
    entries = [entry("sweep", LOW, BOTH), entry("own_question")]
    lines = cells(str(index.table(index.experiment_table(entries, "pages"))))
    assert lines == [
        [
            "[sweep](pages/sweep/README.md)",
            "What of sweep?",
            "1 reproduced, 1 not reproduced",
        ],
        ["[own_question](pages/own_question/README.md)", "What of own_question?", ""],
    ]


def test_verdicts_are_counted_each_by_its_kind():
    table = index.verdict_table([entry("a", LOW, COUNT), entry("b", LOW)])
    counts = dict(zip(table.verdict, table["count"], strict=True))
    assert counts["not reproduced"] == 2
    assert counts["equal"] == 1
    assert counts["reproduced"] == 0
    kinds = dict(zip(table.verdict, table["of"], strict=True))
    assert kinds["equal"] == "value"
    assert kinds["not reproduced"] == "effect"


def test_text_between_the_markers_is_replaced():
    start, end = index.MARKERS
    text = f"before {start} old {end} after"
    assert index.insert_between_markers(text, " new ") == (
        f"before {start}\n\nnew\n\n{end} after"
    )
    with pytest.raises(ValueError, match="expected a text with"):
        index.insert_between_markers(f"{end} and then nothing", "new")
