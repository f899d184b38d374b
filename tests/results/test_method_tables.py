"""Tables of methods that generate text, from made-up rows."""

import math
import subprocess
import sys

import pandas as pd
import pytest

from lora_jax.results import (
    claims,
    generated_texts,
    groups,
    key,
    method_summary,
    method_tables,
)

OPTIONS = {"lora": {"rank": 4, "targets": "query,value"}, "top": {"top_layers": 2}}


def row(method="lora", seed=0, bleu=0.5, settings=None, **facts):
    config = {
        "model": "tiny-llama",
        "data": "e2e",
        "method": method,
        "quantize": "none",
        "seed": seed,
        "epochs": 1,
        "learning_rate": 0.002,
        **OPTIONS.get(method, {}),
        **(settings or {}),
    }
    example = {
        "source": "name : A | food : b",
        "output": f"{method} says\n*A*",
        "references": ["A has b", "b at A"],
    }
    texts = {"examples": [example], "missing": {}, "tokens_per_second": 50.0}
    metrics = {
        "test/nist": 5.0,
        "test/bleu": bleu,
        "validation/loss": 2.0,
        "validation/perplexity": math.e**2,
    }
    return {
        "key": key(config),
        "config": config,
        "metrics": metrics,
        "parameters": {"adapter": 1000, "head": 0},
        "tokens_per_second": 0.0 if method == "none" else 100.0,
        "seconds": 60.0,
        "examples": {"train": 32, "validation": 16, "test": 4},
        "curve": [] if method == "none" else [[1, 3.0], [2, 2.0]],
        "written": {"test": texts},
        **facts,
    }


def group_of(rows):
    (group,) = groups(rows, method_summary.axes(rows))
    return group


def no_note(metric):
    return None


def report(rows, published=lambda task: []):
    return method_tables.report(
        rows, title="T", intro="I", published=published, note=no_note, claims=[]
    )


class TestSummary:
    def test_means_and_standard_errors_over_seeds(self):
        rows = [row(seed=0, bleu=0.4), row(seed=1, bleu=0.6), row("none", bleu=0.1)]
        table = method_summary.summary(group_of(rows))
        assert list(table["called"]) == ["as pretrained", "LoRA"]
        assert list(table["seeds"]) == [1, 2]
        assert table["test/bleu"].tolist() == pytest.approx([10, 50])
        # 40 and 60: a standard deviation of 10 √2, over √2.
        assert table["test/bleu error"][1] == pytest.approx(10)
        assert math.isnan(table["test/bleu error"][0])
        assert table["test/nist"].tolist() == [5, 5]  # in its own unit
        assert table["score"].tolist() == table["test/bleu"].tolist()

    def test_options_of_other_methods_are_empty(self):
        rows = [row(), row("top"), row("none")]
        table = method_summary.summary(group_of(rows)).set_index("method")
        assert table.loc["lora", "rank"] == 4
        assert table.loc["top", "top_layers"] == 2
        assert pd.isna(table.loc["top", "rank"])
        assert pd.isna(table.loc["none", "learning_rate"])

    def test_a_new_method_with_an_option_of_its_own_is_in_the_same_table(self):
        rows = [row(), row("vera", settings={"projection": 7})]
        table = method_summary.summary(group_of(rows))
        assert list(table["called"]) == ["LoRA", "vera"]
        assert table["projection"].tolist()[1] == 7

    def test_settings_of_one_method_are_told_apart_in_the_order_of_numbers(self):
        ranks = [row(settings={"rank": rank}) for rank in (16, 4)]
        names = list(method_summary.by_setting(group_of([*ranks, row("top")])))
        assert names == ["FT-Top2", "LoRA, rank 4", "LoRA, rank 16"]

    def test_a_metric_that_one_machine_lacks_is_the_mean_of_the_others(self):
        lacking = row(seed=1)
        del lacking["metrics"]["test/nist"]
        table = method_summary.summary(group_of([row(seed=0), lacking]))
        assert table["test/nist"].tolist() == [5]

    def test_metrics_come_in_the_order_of_the_papers(self):
        names = method_summary.metric_names(row())
        assert names == ["validation/loss", "test/bleu", "test/nist"]

    @pytest.mark.parametrize(
        ("metric", "label"),
        [
            ("test/bleu", "test BLEU, %"),
            ("test/nist", "test NIST"),
            ("test/exact_match", "test exact match, %"),
        ],
    )
    def test_an_axis_has_the_name_and_the_unit(self, metric, label):
        assert method_summary.axis_label(metric) == label


class TestPage:
    def test_scores_texts_and_what_is_published(self):
        rows = [row(), row("none")]
        page = report(rows, lambda task: [f"PUBLISHED {task}"])
        (section,) = page.sections
        scores = section.blocks[2]
        assert scores["parameters"].tolist() == [1000, 1000]
        assert scores["test/bleu"].tolist() == ["50.0", "50.0"]
        assert scores["training tokens/s"].tolist() == ["", "100"]
        assert section.blocks[3] == "PUBLISHED e2e"
        sentence = section.blocks[1]
        assert sentence.startswith("Trained on 32 rows, epochs: 1; scored on 4 sources")

    def test_the_same_is_drawn_from_rows_in_any_order(self):
        rows = [row(), row("none"), row("top"), row(seed=1)]
        pd.testing.assert_frame_equal(report(rows).data, report(rows[::-1]).data)

    def test_one_row_alone_is_drawn(self):
        assert len(report([row("none")]).data) == 1

    def test_a_missing_metric_says_why(self):
        texts = {"examples": [], "missing": {"meteor": "there is no java"}}
        text = method_tables.notes(row(written={"test": texts}), no_note)
        assert text == " meteor is missing: there is no java."

    def test_a_metric_that_is_not_the_papers_own_is_explained(self):
        notes = {"bleu": "another tokenizer"}
        assert method_tables.notes(row(), notes.get) == " bleu: another tokenizer."

    def test_only_what_trained_has_a_curve(self):
        assert method_tables.loss_curves(group_of([row("none")])) is None
        (axes,) = method_tables.loss_curves(group_of([row(), row("none")])).axes
        assert [line.get_label() for line in axes.lines] == ["LoRA"]


class TestClaims:
    ROWS = (
        row("lora", 0, 0.60),
        row("lora", 1, 0.62),
        row("top", 0, 0.50),
        row("top", 1, 0.52),
        row("none"),
    )

    def check(self, rows, metric="test/bleu"):
        return method_tables.lora_claims(rows, metric, "LoRA Table 3", "LoRA's BLEU")

    def test_lora_is_held_against_each_method_to_the_error_of_seeds(self):
        (claim,) = self.check(self.ROWS)
        assert claim.statement == "LoRA's BLEU is above that of FT-Top2"
        assert claim.evidence == "61.0 against 51.0 ± 1.4 %"
        assert claim.verdict == claims.REPRODUCED

    def test_the_other_way_round_is_not_reproduced(self):
        swapped = [row("lora", s, 0.5 + s / 100) for s in (0, 1)]
        swapped += [row("top", s, 0.6 + s / 100) for s in (0, 1)]
        assert self.check(swapped)[0].verdict == claims.NOT_REPRODUCED

    def test_one_seed_has_no_error(self):
        (claim,) = self.check(self.ROWS[1:3])
        assert claim.evidence == "62.0 against 50.0 %"
        assert claim.verdict == claims.UNKNOWN_ERROR

    def test_each_method_has_its_best_setting(self):
        better = row("top", bleu=0.7, settings={"learning_rate": 0.01})
        (claim,) = self.check([row(), row("top", bleu=0.4), better])
        assert claim.evidence == "50.0 against 70.0 %"

    def test_without_lora_or_the_metric_there_is_no_claim(self):
        assert self.check(self.ROWS[2:]) == []
        assert self.check(self.ROWS, "test/ter") == []


class TestTexts:
    def test_a_table_has_the_source_the_texts_and_a_reference(self):
        rows = {"LoRA": [row()], "as pretrained": [row("none")]}
        _, table = generated_texts.blocks(rows)
        assert table[""].tolist() == [
            "source",
            "LoRA",
            "as pretrained",
            "a reference of 2",
        ]
        assert table["text"].tolist() == [
            "name : A | food : b",
            "lora says / \\*A\\*",
            "none says / \\*A\\*",
            "A has b",
        ]

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("a\nb", "a / b"),
            ("\x06a", "\\x06a"),
            ("<s>", "&lt;s>"),
            ("x" * 500, "x" * 400 + " …"),
        ],
    )
    def test_a_text_is_one_line(self, text, line):
        assert generated_texts.one_line(text) == line


def test_the_tables_need_neither_jax_nor_methods():
    code = (
        "import sys, lora_jax.results.method_tables; "
        "print([name for name in ('jax', 'lora_jax.methods') if name in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
