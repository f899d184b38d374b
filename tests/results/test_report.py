"""What is shown depends on the set of rows alone, and files are written whole or not at all."""

import errno
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lora_jax import results
from lora_jax.results import Claim, Comparison, Report, Section, files
from lora_jax.results.report import agreement, clock, markdown, write


def row(
    rank: int, seed: int = 0, score: float | None = 0.5, **config: Any
) -> dict[str, Any]:
    return {
        "config": {"rank": rank, "seed": seed, **config},
        "metrics": {"test/accuracy": score},
        "examples": {"test": 100},
    }


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def rows(*given: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**r, "key": results.key(r["config"])} for r in given]


def test_frame_flattens_config_and_metrics():
    table = results.frame(
        rows(row(4, score=None, targets=["query", "value"], method={"name": "lora"}))
    )
    assert table.columns.tolist() == [
        "rank",
        "seed",
        "targets",
        "method.name",
        "test/accuracy",
    ]
    assert table["targets"].tolist() == ["query, value"] and math.isnan(
        table["test/accuracy"].tolist()[0]
    )


@given(
    st.permutations(
        rows(
            *(
                row(rank, seed, 0.1 * rank + 0.37 * seed)
                for rank in (1, 2)
                for seed in (0, 1, 2)
            )
        )
    )
)
@settings(max_examples=20, deadline=None)
def test_what_is_shown_does_not_depend_on_the_order_of_rows(
    shuffled: list[dict[str, Any]],
):
    ordered = sorted(shuffled, key=lambda r: (r["config"]["rank"], r["config"]["seed"]))
    pd.testing.assert_frame_equal(
        results.frame(shuffled), results.frame(ordered), check_exact=True
    )
    by_rank = [
        results.summary(r, by=["rank"], metric="test/accuracy")
        for r in (shuffled, ordered)
    ]
    pd.testing.assert_frame_equal(by_rank[0], by_rank[1], check_exact=True)


def test_summary_over_seeds_and_of_one_seed():
    told = rows(
        row(1, 0, 0.4), row(1, 1, 0.6), row(1, 2, None), row(2, 0, 0.8), row(4, 0, None)
    )
    one, two, four = results.summary(told, by=["rank"], metric="test/accuracy").to_dict(
        "records"
    )
    assert (
        one["mean"] == 0.5
        and one["std"] == pytest.approx(math.sqrt(0.02))
        and one["error"] == pytest.approx(0.1)
    )
    assert (one["rank"], one["count"], one["failed"], one["error_kind"]) == (
        1,
        2,
        1,
        "seeds",
    )
    assert (
        two["error"] == pytest.approx(0.04)
        and two["error_kind"] == "binomial"
        and math.isnan(two["std"])
    )
    assert math.isnan(four["mean"]) and (
        four["count"],
        four["failed"],
        four["error_kind"],
    ) == (0, 1, "none")


def test_summary_takes_the_number_of_examples():
    told = rows(
        {"config": {"rank": 1}, "metrics": {"test/accuracy": 0.5, "test/f1": 0.5}}
    )
    errors = [
        results.summary(told, by=["rank"], metric=metric, examples=n)[
            "error_kind"
        ].tolist()
        for metric, n in (
            ("test/accuracy", 25),
            ("test/accuracy", None),
            ("test/f1", 25),
        )
    ]
    assert errors == [["binomial"], ["none"], ["none"]]
    assert results.summary(told, by=["rank"], metric="test/accuracy", examples=25)[
        "error"
    ].tolist() == [0.1]


def test_summary_never_mixes_settings():
    with pytest.raises(
        ValueError, match=r"a group by \['rank'\] mixes runs that differ in \['lr'\]"
    ):
        results.summary(
            rows(row(1, lr=0.1), row(1, lr=0.2)), by=["rank"], metric="test/accuracy"
        )


def test_summary_names_what_there_is():
    with pytest.raises(
        ValueError,
        match="unknown column 'test/acc'; there are rank, seed, test/accuracy",
    ):
        results.summary(rows(row(1)), by=["rank"], metric="test/acc")
    with pytest.raises(
        ValueError, match="unknown column 'ranks'; there are rank, seed"
    ):
        results.summary(rows(row(1)), by=["ranks"], metric="test/accuracy")
    with pytest.raises(
        ValueError, match=r"expected an accuracy as a fraction between 0 and 1, got 85"
    ):
        results.summary(rows(row(1, score=85)), by=["rank"], metric="test/accuracy")


# --- write, markdown and render


def test_write_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "new" / "table.md"
    files.write(target, "ü\n")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        files.write(target, b"other")
    assert target.read_text() == "ü\n" and names(target.parent) == ["table.md"]


def test_a_table_is_padded_and_numbers_are_right_aligned():
    table = pd.DataFrame(
        {
            "method": ["LoRA|x", None],
            "parameters": [1234567, 16],
            "score": [0.51234, math.nan],
            "text": ["79.7 ± 0.3", ""],
        }
    )
    assert results.table(table, digits={"score": 2}) == (
        "| method  | parameters | score |       text |\n"
        "| ------- | ---------: | ----: | ---------: |\n"
        "| LoRA\\|x |  1,234,567 |  0.51 | 79.7 ± 0.3 |\n"
        "|         |         16 |       |            |\n"
    )
    assert "0.512 |" in results.table(table), "three decimals where nothing is said"


def test_a_column_has_as_many_decimals_as_its_numbers_need():
    lines = results.table(pd.DataFrame({"x": [80.0, 79.75, 1e-7]})).split("\n")
    assert lines[2:5] == ["|    80.00 |", "|    79.75 |", "|    1e-07 |"] or lines[
        2:5
    ] == [
        "| 80.00 |",
        "| 79.75 |",
        "| 1e-07 |",
    ]


cells = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=6
)


@given(st.lists(st.tuples(cells, st.floats(-1e9, 1e9)), min_size=1, max_size=4))
@settings(deadline=None)
def test_lines_of_a_table_are_as_wide_as_each_other_and_numbers_come_back(
    data: list[tuple[str, float]],
):
    frame = pd.DataFrame(data, columns=pd.Index(["name", "score"]))
    lines = results.table(frame).split("\n")[:-1]
    assert len({len(line) for line in lines}) == 1
    for line, (name, score) in zip(lines[2:], data, strict=True):
        text = line[:-1].rpartition("|")[2].replace(",", "")
        assert float(text) == pytest.approx(score, rel=1e-2, abs=6e-4)
        assert name.replace("|", "\\|") in line


def test_digits_of_a_column_that_is_not_there():
    with pytest.raises(ValueError, match="unknown column 'b'; there are a"):
        results.table(pd.DataFrame({"a": [1]}), digits={"b": 1})


# --- the page of an experiment


def report_of(score: float, error: float = 1.0) -> Report:
    data = pd.DataFrame(
        {"rank": [1], "paper X": [70.0], "score": score, "error": error}
    )
    return Report(
        title="Rank sweep",
        intro="Which rank?",
        sections=[Section("Scores", ["In %:", data])],
        claims=[Claim("Table 6", "r = 1 suffices", "80 against 79", "reproduced")],
        data=data,
        comparison=Comparison(by=("rank",)),
    )


def test_a_page_has_prose_tables_and_claims():
    page = markdown(report_of(80.0))
    assert page.startswith(
        "# Rank sweep\n\nWhich rank?\n\n## Scores\n\nIn %:\n\n| rank |"
    )
    assert "| Table 6 | r = 1 suffices | 80 against 79 | reproduced |" in page
    assert "Yours and the reference" not in page


@pytest.mark.parametrize(
    ("yours", "verdict", "sentence"),
    [
        (82.8, "yes", "Your rows and the reference rows agree**: 1 of 1 line"),
        (82.9, "no", "do not all agree**: 0 of 1 line"),
    ],
)
def test_yours_agree_with_the_reference_within_two_errors(yours, verdict, sentence):
    # Two standard errors of the difference: 2 sqrt(1 + 1) = 2.83.
    page = markdown(report_of(yours), reference=report_of(80.0))
    assert sentence in page
    (line,) = agreement(
        report_of(yours).data, report_of(80.0).data, Comparison(by=("rank",))
    ).to_dict("records")
    assert line["agrees"] == verdict
    assert (line["paper X"], line["reference"], line["yours"]) == (70.0, 80.0, yours)
    assert line["allowed"] == pytest.approx(2 * 2**0.5)


def test_other_settings_have_nothing_to_compare_with():
    other = report_of(80.0)
    moved = other._replace(data=other.data.assign(rank=2))
    page = markdown(moved, reference=other)
    assert "have none of these settings: there is nothing to compare" in page


def test_a_value_without_an_error_agrees_within_the_tolerance():
    comparison = Comparison(by=("rank",), error="", relative=0.1)
    reference = pd.DataFrame({"rank": [1, 2], "score": [100.0, 100.0]})
    yours = pd.DataFrame({"rank": [1, 2], "score": [109.0, 111.0]})
    assert list(agreement(yours, reference, comparison)["agrees"]) == ["yes", "no"]


def test_write_makes_a_folder_with_page_table_and_figures(tmp_path: Path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    report = report_of(80.0)._replace(figures={"": figure, "layers": figure})
    paths = write(report, tmp_path / "rank_sweep")
    assert [path.name for path in paths] == [
        "README.md",
        "table.csv",
        "figure.png",
        "figure_layers.png",
    ]
    assert "![Rank sweep](figure.png)" in paths[0].read_text()
    before = [path.read_bytes() for path in paths]
    write(report, tmp_path / "rank_sweep")
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_a_duration_in_words(seconds, text):
    assert clock(seconds) == text


def test_render_writes_only_what_changed(tmp_path: Path):
    stem, table, figure = (
        tmp_path / "rank.sweep",
        pd.DataFrame({"r": [1], "score": [0.1 + 0.2]}),
        Figure(),
    )
    figure.subplots().plot([1, 2])
    paths = results.render(stem, markdown="one\n", table=table, figure=figure)
    assert [p.name for p in paths] == [
        "rank.sweep.md",
        "rank.sweep.csv",
        "rank.sweep.png",
    ]
    assert paths[1].read_bytes() == b"r,score\n1,0.3\n"
    for p in paths:
        os.utime(p, (1, 1))
    results.render(stem, markdown="two\n", table=table, figure=figure)
    assert [p.stat().st_mtime == 1 for p in paths] == [False, True, True]
    assert names(tmp_path) == ["rank.sweep.csv", "rank.sweep.md", "rank.sweep.png"]


def test_a_section_of_a_group_has_the_warning_first_and_the_settings_last():
    (group,) = results.groups(rows(row(4, model="tiny", data="d")), ["rank", "seed"])
    section = results.report.group_section(group, ["text"])
    assert section.title == "d, tiny"
    smoke, text, settings_text = section.blocks
    assert smoke == results.report.SMOKE
    assert text == "text"
    assert "model tiny" in str(settings_text)
    assert results.report.group_section(group, [], "other").title == "other"
