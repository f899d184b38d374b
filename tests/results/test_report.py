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
        results.summary(told, by=["rank"], metric=metric, n=n)["error_kind"].tolist()
        for metric, n in (
            ("test/accuracy", 25),
            ("test/accuracy", None),
            ("test/f1", 25),
        )
    ]
    assert errors == [["binomial"], ["none"], ["none"]]
    assert results.summary(told, by=["rank"], metric="test/accuracy", n=25)[
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
    results.write(target, "ü\n")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        results.write(target, b"other")
    assert target.read_text() == "ü\n" and names(target.parent) == ["table.md"]


def test_markdown_is_a_padded_table():
    table = pd.DataFrame(
        {"method": ["LoRA|x", None], "rank": [8, 16], "score": [0.51234, math.nan]}
    )
    assert results.markdown(table, digits=2) == (
        "| method  | rank | score |\n"
        "| ------- | ---: | ----: |\n"
        "| LoRA\\|x |    8 |  0.51 |\n"
        "|         |   16 |       |\n"
    )
    assert (
        results.markdown(table.filter(["rank"]), align={"rank": "left"})
        == "| rank |\n| ---- |\n| 8    |\n| 16   |\n"
    )
    assert "0.5123 |" in results.markdown(table, digits={"score": 4})


cells = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=6
)


@given(st.lists(st.tuples(cells, st.floats(-1e300, 1e300)), min_size=1, max_size=4))
@settings(deadline=None)
def test_markdown_lines_are_as_wide_as_each_other_and_numbers_come_back(
    data: list[tuple[str, float]],
):
    lines = results.markdown(
        pd.DataFrame(data, columns=pd.Index(["name", "score"]))
    ).split("\n")[:-1]
    assert len({len(line) for line in lines}) == 1
    for line, (name, score) in zip(lines[2:], data, strict=True):
        assert float(line[:-1].rpartition("|")[2]) == pytest.approx(
            score, rel=1e-9, abs=0
        )
        assert name.replace("|", "\\|") in line


def test_markdown_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="unknown column 'b'; there are a"):
        results.markdown(pd.DataFrame({"a": [1]}), digits={"b": 1})
    with pytest.raises(
        ValueError, match=r"align: expected left or right, got \{'a': 'middle'\}"
    ):
        results.markdown(pd.DataFrame({"a": [1]}), align={"a": "middle"})


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
