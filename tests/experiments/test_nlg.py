"""Studies of generated text: their cells, what is drawn from hand-made rows, and settings that do not go together."""

import inspect
import math
from dataclasses import asdict, replace

import gpt3_tables
import nlg
import pytest
import rank_sweep

from lora_jax import data, methods, models, paper
from lora_jax.data import official_files, text_pairs
from lora_jax.experiment import cli, run
from lora_jax.models.decoder import Decoder
from lora_jax.results import method_tables


def row(method="lora", seed=0, bleu=0.5, **facts):
    config = {
        **asdict(run.NLG_SMOKE),
        "method": method,
        "seed": seed,
        "rank": 4,
        "targets": "query,value",
        "data_source": "x",
    }
    example = {
        "source": "name : A | food : b",
        "output": f"{method} says\n*A*",
        "references": ["A has b", "b at A"],
    }
    written = {
        "examples": [example],
        "missing": {},
        "outputs": [example["output"]],
        "tokens_per_second": 50.0,
    }
    metrics = {
        "validation/loss": 2.0,
        "validation/perplexity": math.e**2,
        "test/bleu": bleu,
        "test/nist": 5.0,
    }
    return {
        "config": config,
        "metrics": metrics,
        "parameters": {"adapter": 1000, "head": 0},
        "tokens_per_second": 100.0,
        "seconds": 60.0,
        "examples": {"train": 32, "validation": 16, "test": 4},
        "curve": [[1, 3.0], [2, 2.0]],
        "written": {"test": written},
        **facts,
    }


QUICK = nlg.PRESETS["quick"]


def cells(
    *methods,
    seeds=(0,),
    rank=4,
    targets="query,value",
    rates=method_tables.RATES,
    **settings,
):
    config = replace(QUICK, methods=methods, seeds=seeds, rank=rank, targets=targets)
    return method_tables.cells(
        replace(config, setup=replace(QUICK.setup, **settings)), QUICK, rates=rates
    )


class TestCells:
    def test_each_method_has_its_rate_and_what_learns_every_weight_has_arrays(self):
        made = cells(
            "lora", "full", "prefix", seeds=(0, 1), rates={"full": 0.05, "prefix": 5.0}
        )
        assert [(c["method"], c["seed"], c["quantize"]) for c in made[:3]] == [
            ("lora", 0, "none"),
            ("full", 0, "float"),
            ("prefix", 0, "none"),
        ]
        rates = [cell["learning_rate"] / QUICK.setup.learning_rate for cell in made]
        assert rates == pytest.approx([1, 0.05, 5] * 2)

    def test_what_trains_nothing_depends_on_neither_seed_nor_rate(self):
        made = [*cells("none", seeds=(0, 1, 2)), *cells("none", learning_rate=1.0)]
        assert all(cell == made[0] for cell in made)

    def test_what_a_method_does_not_take_makes_no_cell_of_its_own(self):
        others = {
            "rank": 2,
            "targets": "key",
            "alpha": 1.0,
            "dropout": 0.1,
            "bottleneck": 3,
            "prefix_length": 4,
        }
        assert cells("none", "full", "top", **others) == cells("none", "full", "top")
        (adapter,), (usual,) = cells("adapter_h", **others), cells("adapter_h")
        assert {name for name in adapter if adapter[name] != usual[name]} == {
            "bottleneck"
        }
        (lora,), (usual,) = cells("lora", **others), cells("lora")
        assert {name for name in lora if lora[name] != usual[name]} == {
            "rank",
            "targets",
            "alpha",
            "dropout",
        }

    def test_full_fine_tuning_has_arrays_whatever_the_others_have(self):
        assert [
            cell["quantize"] for cell in cells("none", "full", "lora", quantize="nf4")
        ] == ["nf4", "float", "nf4"]

    @pytest.mark.parametrize("script", [nlg, gpt3_tables])
    def test_help_says_the_rates(self, script):
        said = " ".join(inspect.getsource(script).split())
        for method, rate in method_tables.RATES.items():
            how = (
                "full fine-tuning takes 0.05 of it"
                if method == "full"
                else f"{method} {rate:g}"
            )
            assert rate == 1 or how in said
        assert method_tables.RATES["full"] == 0.05

    def test_every_option_of_a_method_is_known(self):
        taken = {name for method in methods.METHODS for name in methods.options(method)}
        assert taken & {*asdict(run.SETUP), "rank", "targets"} == set(
            method_tables.OPTIONS
        )

    def test_a_method_that_is_none_is_told(self):
        with pytest.raises(
            ValueError, match=r"methods: expected some of lora, .*none.*, got lroa"
        ):
            cells("none", "lroa")

    def test_a_hidden_method_is_refused(self):
        with pytest.raises(
            ValueError,
            match="--method: expected the methods as --methods, got --method full",
        ):
            cells("lora", method="full")


class TestTable:
    def test_means_and_errors_over_seeds(self):
        table = method_tables.summary(
            [row(seed=0, bleu=0.4), row(seed=1, bleu=0.6), row("none", bleu=0.1)]
        )
        assert list(table.method) == ["none", "lora"] and list(table.seeds) == [1, 2]
        assert table["test/bleu"].tolist() == pytest.approx([10, 50])
        assert table["test/bleu error"][1] == pytest.approx(10) and math.isnan(
            table["test/bleu error"][0]
        )
        assert table["test/nist"].tolist() == [5, 5], "in its own unit"

    def test_settings_of_one_method_are_told_apart(self):
        other = row(bleu=0.6)
        other["config"]["learning_rate"] = 0.01
        group = [row(), other, row("none", curve=[])]
        names = [
            "as pretrained",
            "LoRA, learning_rate 0.002",
            "LoRA, learning_rate 0.01",
        ]
        group.reverse()
        assert list(method_tables.settings(group)) == names
        text = method_tables.section(group, method_tables.summary(group), "", "")
        assert all(text.count(f"| {name}") == 2 for name in names), (
            "among the scores and beside what they wrote"
        )
        (axes,) = method_tables.curves(group).axes
        assert [line.get_label() for line in axes.lines] == names[1:]

    def test_a_section_has_scores_and_examples_in_one_line_each(self):
        group = [row(), row("none", curve=[])]
        text = method_tables.section(
            group, method_tables.summary(group), "", "PUBLISHED\n"
        )
        assert "| LoRA          |      1,000 |" in text and "PUBLISHED" in text
        assert (
            "lora says / \\*A\\*" in text
            and "a reference of 2" in text
            and "smoke run" in text
        )
        assert "4 sources of test" in text

    def test_a_missing_metric_says_why(self):
        lost = row(
            written={
                "test": {
                    "examples": [],
                    "missing": {"meteor": "there is no java"},
                    "tokens_per_second": 1.0,
                }
            }
        )
        assert method_tables.notes(lost).endswith(
            "meteor is missing: there is no java."
        )

    def test_only_what_trained_has_a_curve(self):
        assert method_tables.curves([row("none", curve=[])]) is None
        (axes,) = method_tables.curves([row(), row("none", curve=[])]).axes
        assert [line.get_label() for line in axes.lines] == ["LoRA"]

    @pytest.mark.parametrize(
        ("text", "shown"),
        [("a\nb", "a / b"), ("\x06a", "\\x06a"), ("x" * 500, "x" * 400 + " …")],
    )
    def test_a_text_is_one_line(self, text, shown):
        assert method_tables.plain(text) == shown


def test_verdicts_hold_lora_against_each_method_to_the_error_of_seeds():
    rows = [row("lora", s, b) for s, b in ((0, 0.6), (1, 0.62))] + [
        row("top", s, b) for s, b in ((0, 0.5), (1, 0.52))
    ]
    (found,) = method_tables.verdicts(
        [*rows, row("none")], "test/bleu", "LoRA Table 3", "LoRA's BLEU"
    )
    assert (
        found.verdict == "seen"
        and found.ours == "61.0 against 51.0 ± 1.4 %"
        and "FT-Top2" in found.published
    )
    (single,) = method_tables.verdicts(rows[1:3], "test/bleu", "", "")
    assert (
        single.ours == "62.0 against 50.0 %, one seed" and single.verdict == "not known"
    )
    assert (
        method_tables.verdicts(rows[2:], "test/bleu", "", "")
        == []
        == method_tables.verdicts(rows, "test/ter", "", "")
    )


class TestBench:
    def cell(self, **changes):
        return {
            **asdict(replace(run.NLG_SMOKE, **changes)),
            "targets": "query,value",
            "rank": 2,
            "seed": 0,
        }

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            (
                {"model": "tiny"},
                "data: tiny-nlg is text to be generated, for a language model; tiny is an encoder",
            ),
            (
                {"data": "tiny"},
                "data: tiny has labels, for an encoder; tiny-llama is a language model, which learns from e2e, ",
            ),
            (
                {"max_length": 1025},
                "max_length: tiny-llama has positions for 1024 tokens, got 1025",
            ),
            ({"max_length": 40}, "rows are longer than max_length 40"),
            ({"new_tokens": 1018}, "longer than 6 tokens"),
        ],
    )
    def test_what_does_not_go_together_is_told(self, changes, text):
        with pytest.raises(ValueError) as error:
            run.bench(self.cell(**changes))
        assert text in str(error.value)

    @pytest.mark.parametrize(("ends", "said"), [((), "none"), ((256, 999), "256, 999")])
    def test_a_model_without_an_end_token_of_its_own(self, ends, said, monkeypatch):
        of, tokenizer = models.load("tiny-llama")
        model = Decoder(
            of.embed,
            of.blocks,
            of.norm,
            of.lm_head,
            config=of.config._replace(eos_ids=ends),
        )
        monkeypatch.setattr(run, "_network", lambda *_: (model, tokenizer))
        with pytest.raises(
            ValueError,
            match=rf"expected a token in 0 … 256 that ends a text .*, tiny-llama has {said}$",
        ):
            run.bench(self.cell())

    def test_the_loss_can_be_on_everything(self):
        target, every = (
            run.bench(self.cell(loss_on=on)).encoded["train"]
            for on in ("target", "all")
        )
        assert 0 < target.segments.mean() < 1 == every.segments.mean()
        assert (target.tokens == every.tokens).all()

    def test_where_e2e_cannot_be_had_another_task_is_taken_and_named(
        self, monkeypatch, capsys
    ):
        def gone(*_, **__):
            raise ConnectionError("no hub")

        monkeypatch.setattr(data, "load", gone)
        assert run.had(run.NLG).data == "rotten-tomatoes-text"
        assert run.had(replace(run.NLG_SMOKE, data="e2e")).data == "tiny-nlg"
        assert "no hub\nInstead: rotten-tomatoes-text" in capsys.readouterr().err
        given = replace(run.NLG, data_dir="folder")
        assert run.had(given) is given and run.had(run.NLG_SMOKE) is run.NLG_SMOKE
        with pytest.raises(
            ValueError,
            match="--data: sst2 has labels; --data sst2-text has them as words to be written",
        ):
            run.had(replace(run.NLG, data="sst2"))


def test_a_classification_in_words():
    task = data.load("tiny-text")
    assert (
        task.generates
        and task.metrics == ("exact_match",)
        and set(task.splits["train"].pair) == {"kind", "unkind"}
    )
    assert task.splits["train"].text == data.load("tiny").splits["train"].text
    with pytest.raises(ValueError, match="tiny-nlg: expected a task with classes"):
        text_pairs.classification_as_text(data.load("tiny-nlg"))


class TestPaper:
    @pytest.mark.parametrize("task", ["E2E", "WebNLG", "DART"])
    def test_the_paper_preset_has_the_values_of_table_11(self, task):
        table = paper.table("lora_table11_gpt2_hparams").query("dataset == @task")
        printed = dict(zip(table.hparam, table.value, strict=True))
        preset = nlg.PRESETS["paper"]
        cell = nlg.cells(
            replace(preset, setup=replace(preset.setup, data=task.lower()))
        )[-1]
        ours = {
            "weight_decay": "weight_decay",
            "dropout_prob": "dropout",
            "batch_size": "batch",
            "epochs": "epochs",
            "label_smooth": "label_smoothing",
            "learning_rate": "learning_rate",
            "lora_alpha": "alpha",
            "beam_size": "beam",
            "length_penalty": "length_penalty",
            "no_repeat_ngram_size": "no_repeat",
        }
        assert cell["method"] == "lora" and cell["rank"] == 4
        assert {name: cell[field] for name, field in ours.items()} == {
            name: float(printed[name]) for name in ours
        }

    def test_every_published_table_is_shown_whole(self):
        assert nlg.published("e2e").count(
            "\n| GPT-2"
        ) == 12 and "68.2" in nlg.published("e2e")
        assert "BLEU unseen" in nlg.published("webnlg") and "TER" in nlg.published(
            "dart"
        )
        assert nlg.published("mine") == ""
        assert "73.8" in gpt3_tables.published(
            "wikisql"
        ) and "SAMSum-RL" in gpt3_tables.published("samsum")

    def test_tasks_without_data_are_named_and_left_out(self, monkeypatch, capsys):
        monkeypatch.setattr(
            data,
            "load",
            lambda task, *, data_dir: official_files.task_folder(
                task, data_dir, "its files"
            ),
        )
        quick = gpt3_tables.PRESETS["quick"]
        cells = gpt3_tables.cells(quick)
        assert {(cell["data"], cell["data_dir"]) for cell in cells} == {
            ("rotten-tomatoes-text", None)
        }
        said = capsys.readouterr().err
        assert "wikisql is left out: " in said and "samsum is left out: " in said
        assert "Instead: rotten-tomatoes-text" in said

    def test_data_that_is_asked_for_is_had_or_an_error(self, tmp_path):
        quick = gpt3_tables.PRESETS["quick"]
        there = replace(quick, setup=replace(quick.setup, data_dir=str(tmp_path)))
        with pytest.raises(
            ValueError,
            match=r"has none of the tasks:\n  wikisql is left out: wikisql in .*: expected",
        ):
            gpt3_tables.cells(there)
        with pytest.raises(
            FileNotFoundError, match=r"wikisql in .*: expected .*, got nothing"
        ):
            gpt3_tables.cells(replace(there, tasks=("wikisql",)))

    @pytest.mark.parametrize(
        ("flags", "wanted"),
        [
            ([], ("tiny-llama", "query,value", 2e-3)),
            (
                ["--learning-rate", "0.001", "--targets", "query"],
                ("tiny-llama", "query", 1e-3),
            ),
            (["--model", "tiny"], ("tiny", "query,value", 2e-3)),
        ],
    )
    def test_a_rank_sweep_of_a_task_that_writes_has_a_language_model_s_presets(
        self, flags, wanted
    ):
        """And a flag that names what the other presets have is a flag all the same."""
        config = cli.line(
            rank_sweep.Config,
            rank_sweep.WRITING,
            "",
            ["--preset", "smoke", "--task", "tiny-nlg", *flags],
        )
        cells = rank_sweep.cells(config)
        assert {(c["model"], c["targets"], c["learning_rate"]) for c in cells} == {
            wanted
        }
        assert {c["data"] for c in cells} == {"tiny-nlg"} and [
            c["rank"] for c in cells
        ] == [1, 2]

    @pytest.mark.parametrize(
        ("method", "given", "text"),
        [
            ("full", {}, "--ranks: full takes no rank: expected one value, got 1 2"),
            (
                "none",
                {"ranks": (1,), "targets": ("key", "value")},
                "--targets: none takes no targets: .* got key value",
            ),
        ],
    )
    def test_ranks_of_a_method_without_are_refused(self, method, given, text):
        smoke = rank_sweep.WRITING["smoke"]
        config = replace(
            smoke, task="tiny-nlg", setup=replace(smoke.setup, method=method), **given
        )
        with pytest.raises(ValueError, match=text):
            rank_sweep.cells(config)

    def test_a_task_is_named_once(self):
        config = replace(rank_sweep.WRITING["smoke"], task="e2e", tasks=("mnli",))
        with pytest.raises(
            ValueError,
            match="expected one of --task, --tasks and --data, got e2e, mnli",
        ):
            rank_sweep.cells(config)
        config = gpt3_tables.PRESETS["quick"]
        for task in ("dart", "e2e"):
            with pytest.raises(
                ValueError,
                match=f"--data: expected the tasks as --tasks, got --data {task}",
            ):
                gpt3_tables.cells(
                    replace(config, setup=replace(config.setup, data=task))
                )


def test_what_a_flag_is_given():
    given = ["--task", "e2e", "--lr=1", "--task=dart", "--tasks", "x"]
    assert [
        cli.value(flag, given) for flag in ("--task", "--lr", "--tasks", "--rank")
    ] == ["dart", "1", "x", None]
    assert cli.value("--task", ["--task"]) == ""
