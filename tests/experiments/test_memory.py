"""The page on memory: its cells, its claims, and what is drawn from its rows."""

import random
from importlib import import_module

import pytest
import qlora_memory

from lora_jax import accounting, results, tree
from lora_jax.accounting import compiled_step
from lora_jax.accounting.optimizer_states import PRECISIONS, compare_with_lora

ALL = "query,key,value,output,up,down"


class TestClaims:
    @pytest.mark.parametrize(
        ("ours", "printed", "verdict"),
        [
            (349.6, "350", "equal"),
            (1.27, "1.2", "truncated"),
            (349.2, "350", "near"),
            (1.05, "1.2", "unexplained"),
            (0.6666, "0.67", "equal"),
            (11000, "10000", "near"),
            (11001, "10000", "unexplained"),
        ],
    )
    def test_a_value_is_judged(self, ours, printed, verdict):
        assert qlora_memory.judge_value(ours, printed) == verdict

    def test_gpt3_against_the_paper(self, script):
        rows = {
            at["precision"]: compare_with_lora(**at)
            for at in script.cells(script.Config())
            if at.get("architecture") == "gpt3-175b"
        }
        found = {
            claim.claim: (claim.ours, claim.precision, claim.verdict)
            for claim in script.section_4_2(rows)
        }
        six = "FP16, no gradient kept"
        assert found == {
            "L3": ("1.048 TB", six, "unexplained"),
            "L2": ("2.999 x", six, "fitted"),
            "L15": ("0.6666", six, "fitted"),
            "L4": ("349.4 GB", "FP16", "near"),
            "L5": ("349.2 GB", "FP16", "near"),
            "L6": ("37.75 MB", "FP16", "near"),
            "L7": ("9251 x", "FP16", "near"),
            "L8": ("353 GB", "FP16", "near"),
        }

    def test_what_the_page_says_of_gpt3(self, script):
        every = accounting.total_parameters("gpt3-175b")
        assert f"{1.2e12 / every:.1f} bytes" in script.FOUND
        assert (
            f"{6 * every / 1e12:.2f} TB" in script.FOUND
            and f"{8 * every / 1e12:.2f} TB" in script.FOUND
        )
        assert f"{8 * every / 2**40:.2f} TiB" in script.FOUND
        assert (
            f"{18874368 * 2 / 1e6:.1f} MB or {18874368 * 2 / 2**20:.1f} MiB"
            in script.FOUND
        )


@pytest.fixture(scope="module")
def script():
    return import_module("memory")


class TestScript:
    def test_each_set_has_the_first_rank_and_each_rank_the_first_set(self, script):
        cells = script.cells(
            script.Config(models=("minilm-l6",), computes=("float32",))
        )
        at = [
            (cell["method"], cell["targets"], cell["rank"])
            for cell in cells
            if "model" in cell
        ]
        assert at == [
            ("full", "", 0),
            ("bitfit", "", 0),
            ("lora", "query,value", 8),
            ("lora", "query,key,value,output", 8),
            ("lora", ALL, 8),
            ("lora", "query,value", 64),
        ]
        assert (
            len(cells) - len(at)
            == len(PRECISIONS) + len(accounting.ARCHITECTURES) - 1 + 4
        )  # of LLaMA

    def test_the_page_depends_on_the_rows_alone_and_not_on_their_order(
        self, script, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(
            compiled_step,
            "compiled_bytes",
            lambda *_, **given: dict.fromkeys(("temporary", "total"), 100_000),
        )
        script.main(
            ["--preset", "smoke", "--out", str(tmp_path), "--lengths", "16", "8"]
        )
        rows = results.read(tmp_path / "memory.jsonl")
        suffixes = (".md", ".csv", ".png", "_llama.png")
        drawn = {
            suffix: (tmp_path / f"memory{suffix}").read_bytes() for suffix in suffixes
        }
        random.Random(0).shuffle(rows)
        script.render(rows, tmp_path / "again")
        assert {
            suffix: (tmp_path / "again" / f"memory{suffix}").read_bytes()
            for suffix in drawn
        } == drawn
        page = drawn[".md"].decode()
        assert (
            page.index("## 4 rows of 8 tokens")
            < page.index("## 4 rows of 16 tokens")
            < page.index("are 4.8 GB in FP16")
        )
        full = next(
            row["metrics"] for row in rows if row["config"].get("method") == "full"
        )
        assert f"{100 * (full['predicted/total'] / 100_000 - 1):.1f} |" in page

    def test_a_run_killed_before_the_first_step_can_be_drawn(self, script, tmp_path):
        rows = [
            {"key": "", "config": cell, "metrics": compare_with_lora(**cell)}
            for cell in script.cells(script.Config())
            if "precision" in cell
        ]
        script.render(rows, tmp_path)
        assert (
            "1.05 |" in (tmp_path / "memory.md").read_text()
            and not (tmp_path / "memory.png").exists()
        )

    def test_all_that_is_wrong_is_said_before_anything_is_compiled(
        self, script, tmp_path
    ):
        flags = [
            "--preset",
            "smoke",
            "--out",
            str(tmp_path),
            "--targets",
            "qeury",
            "--lengths",
            "65",
        ]
        with pytest.raises(ValueError) as error:
            script.main(flags)
        assert (
            "expected at least 1 row of 1 to 64 tokens, tiny's positions; got 4 of 65"
            in str(error.value)
        )
        with pytest.raises(
            ValueError,
            match="targets: 'qeury' matches no layer; there are: blocks/attention/query",
        ):
            script.main([*flags[:-1], "64"])
        with pytest.raises(
            ValueError, match="no cells: expected at least one value of ranks"
        ):
            script.main([*flags, "--ranks"])
        assert not list(tmp_path.iterdir())

    def test_a_model_of_another_family_is_refused(self, script):
        with pytest.raises(
            ValueError,
            match="expected BERT or RoBERTa encoders, got gpt2 of the family gpt2",
        ):
            script.encoder("gpt2")

    @pytest.mark.real
    def test_the_pretrained_model_has_the_shapes_of_its_architecture(self, script):
        loaded, abstract = (
            script.models.load("minilm-l6")[0],
            script.encoder("minilm-l6"),
        )
        shapes = [
            {path: leaf.shape for path, leaf in tree.leaves(model).items()}
            for model in (loaded, abstract)
        ]
        assert shapes[0] == shapes[1]
