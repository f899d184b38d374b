"""The published parameter counts: none is missing, each has the verdict one gets by hand, and each reason is needed."""

import csv
from collections import Counter
from importlib import import_module

import pytest

from lora_jax import accounting, paper, results


@pytest.fixture(scope="module")
def script():
    return import_module("trainable_params")


@pytest.fixture(scope="module")
def rows(script):
    return {count: script.row(count) for count in script.published()}


def test_no_published_count_is_missing(script):
    with_counts = {
        name
        for name, columns in paper.schema().items()
        if "trainable_params" in columns
    }
    assert with_counts == set(script.TABLES.values())
    for number, name in script.TABLES.items():
        with open(paper.FOLDER / f"{name}.csv", newline="") as file:
            lines = list(csv.DictReader(file))
        printed = {
            (
                line["model"],
                line["trainable_params"].split(" ")[0],
                line.get("hyperparameters"),
            )
            for line in lines
        }
        ours = {
            (c.model, c.published, c.hyperparameters if number == 15 else None)
            for c in script.published([number])
        }
        assert ours == printed
    assert Counter(count.table for count in script.published()) == {
        15: 30,
        4: 8,
        5: 7,
        2: 13,
        3: 12,
        13: 11,
        14: 11,
    }


def test_a_method_with_several_counts_of_one_model_has_them_all(script):
    of = [
        count.published
        for count in script.published([3])
        if (count.model, count.method) == ("GPT-2 M", "AdapterL")
    ]
    assert of == ["0.37M", "11.09M"]


@pytest.mark.parametrize(
    ("count", "printed", "verdict", "difference"),
    [
        (18_874_368, "18.9M", "equal", -0.14),
        (18_874_368, "18.8M", "truncated", 0.4),
        (18_874_368, "18M", "truncated", 4.86),
        (603_979_776, "603.8M", "unexplained", 0.03),
        (174_604_259_328, "175B", "equal", -0.23),
        (174_604_259_328, "175,255.8M", "unexplained", -0.37),
        (1_250_000, "1.3M", "equal", -3.85),  # a half goes up
        (370_000, "0.37M", "equal", 0),
    ],
)
def test_verdicts(script, count, printed, verdict, difference):
    assert script.judged(count, printed) == {
        "verdict": verdict,
        "difference_percent": difference,
    }


def test_the_gpt_3_table_is_explained_but_for_its_prefixes_and_its_largest_lora(
    script, rows
):
    of = {verdict: [] for verdict in ("equal", "truncated", "unexplained")}
    for count in script.published([15]):
        of[rows[count]["verdict"]].append(count.published)
    assert of == {
        "equal": [
            *(
                "175B",
                "0.9M",
                "1.7M",
                "3.2M",
                "6.4M",
                "7.1M",
                "21.2M",
                "40.1M",
                "77.9M",
                "304.4M",
            ),
            *("4.7M", "4.7M", "9.4M", "9.4M", "37.7M", "37.7M", "151.1M", "302.1M"),
        ],
        "truncated": ["0.4M", "18.8M", "18.8M", "301.9M", "37.8M"],
        "unexplained": ["5.1M", "10.1M", "20.2M", "44.1M", "76.1M", "603.8M", "52.8M"],
    }


def test_prefixlayer_is_off_by_what_is_known(script, rows):
    off = [
        rows[count]["difference_percent"]
        for count in script.published([15])
        if count.method == "PrefixLayer"
    ]
    assert [round(value, 1) for value in off] == [-7.5, -6.6, -6.6, -3.7, -0.8]


def test_the_other_tables(script, rows):
    of = {verdict: set() for verdict in ("equal", "truncated", "unexplained")}
    for count, row in rows.items():
        if count.table != 15:
            of[row["verdict"]].add((count.model, count.method, count.published))
    assert of["truncated"] == {
        ("GPT-3 175B", "LoRA", "18M"),
        ("GPT-2 M", "Fine-Tune", "354M"),
    }
    assert of["unexplained"] == {
        ("RoBERTa-base", "Fine-Tune", "125.0M"),
        ("RoBERTa-large", "Fine-Tune", "355.0M"),
        ("RoBERTa-large", "AdapterP", "3.0M"),
        ("RoBERTa-large", "AdapterH", "6.0M"),
        ("DeBERTa-XXL", "Fine-Tune", "1500.0M"),
        ("GPT-2 M", "Fine-Tune", "354.92M"),
        ("GPT-2 M", "FTTop2", "24M"),
        ("GPT-2 M", "AdapterH", "11.09M"),
        ("GPT-2 M", "PrefixLayer", "0.35M"),
        ("GPT-2 M", "LoRA", "0.35M"),
        ("GPT-2 L", "PrefixLayer", "0.77M"),
        ("GPT-2 L", "LoRA", "0.77M"),
        ("GPT-3 175B", "Fine-Tune", "175,255.8M"),
        ("GPT-3 175B", "BitFit", "14.2M"),
        ("GPT-3 175B", "PrefixLayer", "20.2M"),
    }
    assert {
        ("GPT-2 L", "Fine-Tune", "774.03M"),
        ("GPT-2 M", "FTTop2", "25.19M"),
        ("DeBERTa-XXL", "LoRA", "4.7M"),
    } <= of["equal"]


def test_each_reason_and_each_configuration_is_needed(script, rows):
    unexplained = {
        (count.model, count.method)
        for count, row in rows.items()
        if row["verdict"] == "unexplained"
    }
    assert unexplained == set(script.REASONS) and all(script.REASONS.values())
    looked_up = {
        (count.model, count.method, count.published)
        for count in rows
        if count.table not in (5, 15)
    }
    assert set(script.CONFIGURATIONS) <= looked_up
    bare = {method for _, method, _ in looked_up - set(script.CONFIGURATIONS)}
    assert bare == {"Fine-Tune", "FTTop2", "BitFit"}  # which have no hyperparameters


def test_what_is_fitted_is_equal_and_what_is_nearest_cannot_be(script, rows):
    def at(count, change):
        name, _, value = count.hyperparameters.partition(",")[0].partition("=")
        other = count.hyperparameters.replace(
            f"{name}={value}", f"{name}={int(value) + change}", 1
        )
        method = accounting.parse_method(count.method, other)
        closed = accounting.trainable_parameters(method, script.MODELS[count.model])
        return script.judged(closed, count.published)

    for count, row in rows.items():
        if count.known == "fitted":
            assert row["verdict"] == "equal"
        if (
            count.known == "nearest"
        ):  # counts rise with r, so if its neighbours are further off, all others are
            before, here, after = (at(count, change) for change in (-1, 0, 1))
            assert before["difference_percent"] < 0 < after["difference_percent"]
            assert abs(here["difference_percent"]) < min(
                -before["difference_percent"], after["difference_percent"]
            )
            assert (
                before["verdict"]
                == here["verdict"]
                == after["verdict"]
                == "unexplained"
            )


def test_the_tree_is_counted_where_there_is_one_and_agrees(rows):
    for count, row in rows.items():
        counted = row["metrics"].get("count/tree")
        has_one = (
            count.method in ("Fine-Tune", "BitFit", "LoRA")
            and count.model != "DeBERTa-XXL"
        )
        assert counted == (row["metrics"]["count/closed_form"] if has_one else None)


def test_numbers_in_the_text_are_what_is_counted(script):
    deberta = accounting.trainable_parameters(
        accounting.LoRA("query,value", 8), "deberta-v2-xxl"
    )
    four = accounting.trainable_parameters(
        accounting.LoRA("query,key,value,output", 2), "gpt3-175b"
    )
    assert f"{deberta:,}" == "2,359,296" and "has 2,359,296" in script.NOTES
    assert f"{four:,}" == "18,874,368" and "has 18,874,368" in script.NOTES
    untied = accounting.total_parameters("gpt3-175b") + 50257 * 12288
    assert (
        f"{untied / 1e6:,.1f}M"
        == script.REASONS["GPT-3 175B", "Fine-Tune"].split(" ")[0]
    )
    assert (
        12 * 96 * 12288 == 14_155_776
        and "14,155,776" in script.REASONS["GPT-3 175B", "BitFit"]
    )
    assert "124,645,632" in script.REASONS["RoBERTa-base", "Fine-Tune"]
    assert "355,359,744" in script.REASONS["RoBERTa-large", "Fine-Tune"]


def test_the_order_of_the_rows_changes_nothing(script, tmp_path, rows):
    made = [row | {"key": results.key(row["config"])} for row in rows.values()]
    first = [path.read_bytes() for path in script.render(made, tmp_path / "a")]
    assert [
        path.read_bytes() for path in script.render(made[::-1], tmp_path / "b")
    ] == first
    text = first[0].decode()
    assert (
        text.index("## Table 15")
        < text.index("## Table 4")
        < text.index("## Table 13 and Table 14")
    )
    totals = next(line for line in text.splitlines() if line.startswith("| all"))
    assert [int(cell) for cell in totals.split("|")[2:-1]] == [
        92,
        33,
        14,
        31,
        14,
        39,
        39,
    ]
    lora = next(
        line for line in text.splitlines() if "r_q=r_v=4 " in line and "18.8M" in line
    )
    assert [cell.strip() for cell in lora.split("|")[3:-1]] == [
        "r_q=r_v=4",
        "18.8M",
        "18,874,368",
        "18,874,368",
        "truncated",
    ]


def test_a_budget_is_answered_and_nothing_else_done(script, tmp_path, capsys):
    budget = [
        "--budget",
        "18000000",
        "--architecture",
        "gpt3-175b",
        "--targets",
        "query,value",
    ]
    script.main(["--out", str(tmp_path), *budget])
    said = "gpt3-175b, query,value, at most 18,000,000 parameters: r = 3 has 14,155,776 and leaves 3,844,224\n"
    assert capsys.readouterr().out == said and not list(tmp_path.iterdir())
    with pytest.raises(
        ValueError,
        match=r"budget: expected at least 4,608 parameters, what r = 1 .*; got 0",
    ):
        script.main(
            ["--budget", "0", "--architecture", "minilm-l6", "--targets", "query"]
        )


def test_a_table_without_counts_is_told(script, tmp_path):
    with pytest.raises(
        ValueError, match="tables: expected some of 15, 4, 5, 2, 3, 13, 14, got 6, 99"
    ):
        script.main(["--out", str(tmp_path), "--tables", "6", "2", "99"])
    with pytest.raises(ValueError, match=r"tables: expected some of 15, .*, got none"):
        script.main(["--out", str(tmp_path), "--tables"])
    assert not list(tmp_path.iterdir())
