"""The published counts: each verdict as one gets it by hand, and each reason needed."""

import pytest
import trainable_params

from lora_jax import accounting, paper
from lora_jax.results import claims
from lora_jax.results.pages import trainable_params as page

VERDICTS = (claims.EQUAL, claims.TRUNCATED, claims.UNEXPLAINED)


@pytest.fixture(scope="module")
def rows():
    """The row of each count."""
    items = trainable_params.measurements(trainable_params.Options(), None, None)
    settings = [item.settings for item in items]
    parts = trainable_params.measure((), settings)
    counts = paper.lora.parameter_counts()
    result = {}
    for count, setting, part in zip(counts, settings, parts, strict=True):
        result[count] = {"config": dict(setting), **part}
    return result


def reasons() -> dict[tuple[str, str], str]:
    result = {}
    for count in paper.lora.parameter_counts():
        if count.reason:
            result[count.model, count.method] = count.reason
    return result


def test_the_gpt_3_table_is_explained_but_for_its_prefixes_and_its_largest_lora(rows):
    by_verdict = {verdict: [] for verdict in VERDICTS}
    for count, row in rows.items():
        if count.table == 15:
            by_verdict[row["verdict"]].append(count.published)
    equal = "175B 0.9M 1.7M 3.2M 6.4M 7.1M 21.2M 40.1M 77.9M 304.4M 4.7M 4.7M 9.4M"
    truncated = "0.4M 18.8M 18.8M 301.9M 37.8M"
    unexplained = "5.1M 10.1M 20.2M 44.1M 76.1M 603.8M 52.8M"
    assert by_verdict == {
        claims.EQUAL: f"{equal} 9.4M 37.7M 37.7M 151.1M 302.1M".split(),
        claims.TRUNCATED: truncated.split(),
        claims.UNEXPLAINED: unexplained.split(),
    }


def test_prefixlayer_is_off_by_what_is_known(rows):
    differences = []
    for count, row in rows.items():
        if count.table == 15 and count.method == "PrefixLayer":
            differences.append(round(row["difference_percent"], 1))
    assert differences == [-7.5, -6.6, -6.6, -3.7, -0.8]


def test_the_other_tables(rows):
    by_verdict = {verdict: set() for verdict in VERDICTS}
    for count, row in rows.items():
        if count.table != 15:
            name = (count.model, count.method, count.published)
            by_verdict[row["verdict"]].add(name)
    assert by_verdict[claims.TRUNCATED] == {
        ("GPT-3 175B", "LoRA", "18M"),
        ("GPT-2 M", "Fine-Tune", "354M"),
    }
    assert by_verdict[claims.UNEXPLAINED] == {
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
    } <= by_verdict[claims.EQUAL]


def test_each_reason_is_needed(rows):
    unexplained = set()
    for count, row in rows.items():
        if row["verdict"] == claims.UNEXPLAINED:
            unexplained.add((count.model, count.method))
            assert row["reason"]
    assert unexplained == set(reasons())


def test_what_is_fitted_is_equal(rows):
    for count, row in rows.items():
        if count.known == "fitted":
            assert row["verdict"] == claims.EQUAL


def test_what_is_nearest_cannot_be_equal(rows):
    """Counts rise with r: if both neighbors are further off, all others are."""
    for count, row in rows.items():
        if count.known == "nearest":
            before, here, after = (difference(count, step) for step in (-1, 0, 1))
            assert here == pytest.approx(row["difference_percent"], abs=0.006)
            assert before < 0 < after
            assert abs(here) < min(-before, after)
            assert row["verdict"] == claims.UNEXPLAINED


def difference(count, change: int) -> float:
    """How far the count is off in %, if its first hyperparameter is changed."""
    name, _, value = count.hyperparameters.partition(",")[0].partition("=")
    other = f"{name}={int(value) + change}"
    hyperparameters = count.hyperparameters.replace(f"{name}={value}", other, 1)
    method = accounting.parse_method(count.method, hyperparameters)
    architecture = trainable_params.ARCHITECTURES[count.model]
    closed_form = accounting.trainable_parameters(method, architecture)
    return 100 * (closed_form / claims.parse_printed(count.published) - 1)


def test_the_tree_is_counted_where_there_is_one_and_agrees(rows):
    for count, row in rows.items():
        metrics = row["metrics"]
        has_method = count.method in ("Fine-Tune", "BitFit", "LoRA")
        if has_method and count.model != "DeBERTa-XXL":
            assert metrics["count/tree"] == metrics["count/closed_form"]
        else:
            assert "count/tree" not in metrics


def test_numbers_in_the_reasons_are_what_is_counted():
    texts = reasons()
    untied = accounting.total_parameters("gpt3-175b") + 50257 * 12288
    assert texts["GPT-3 175B", "Fine-Tune"].startswith(f"{untied / 1e6:,.1f}M ")
    assert 12 * 96 * 12288 == 14_155_776
    assert "14,155,776" in texts["GPT-3 175B", "BitFit"]
    assert "124,645,632" in texts["RoBERTa-base", "Fine-Tune"]
    assert "355,359,744" in texts["RoBERTa-large", "Fine-Tune"]


def test_the_page_has_the_totals_and_does_not_depend_on_the_order_of_rows(rows):
    ordered = list(rows.values())
    report = trainable_params.show(ordered)
    assert trainable_params.show(ordered[::-1]).sections[1:2] == report.sections[1:2]
    titles = [section.title for section in report.sections]
    assert titles.index("Table 15") < titles.index("Table 4")
    assert titles.index("Table 4") < titles.index("Table 13 and Table 14")
    totals = page.verdict_table(report.data).iloc[-1]
    assert list(totals) == ["all", 92, 33, 14, 31, 14, 39, 39]
    is_lora = report.data.hyperparameters == "r_q=r_v=4"
    lora = report.data[is_lora & (report.data.published == "18.8M")].iloc[0]
    assert lora["closed form"] == lora["tree"] == 18_874_368
    assert lora["verdict"] == claims.TRUNCATED


def test_a_table_without_counts_is_refused(tmp_path):
    main = trainable_params.EXPERIMENT.main
    message = "tables: expected some of 15, 4, 5, 2, 3, 13, 14, got 6, 99"
    with pytest.raises(ValueError, match=message):
        main(["--out", str(tmp_path), "--tables", "6", "2", "99"])
    with pytest.raises(
        ValueError, match="--tables: expected at least one value, got none"
    ):
        main(["--out", str(tmp_path), "--tables"])
    assert not list(tmp_path.iterdir())
