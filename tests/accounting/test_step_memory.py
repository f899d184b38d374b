"""Memory: every term against jax's own list of what is kept, totals against the compiled step, GPT-3's against the paper."""

import random
from functools import cache
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.ad_checkpoint import saved_residuals

from lora_jax import accounting, methods, results, train, tree
from lora_jax.accounting import step_memory
from lora_jax.accounting.optimizer_states import (
    HALF,
    MIXED,
    PRECISIONS,
    compare,
    judged,
    section_4_2,
    states,
)
from lora_jax.checkpoints import adapter
from lora_jax.models import bert, gpt2
from lora_jax.nn import precision
from lora_jax.results import stacked_bars

ALL = "query,key,value,output,up,down"
METHODS = {
    "full": methods.full(),
    "bitfit": methods.bitfit(),
    "query": methods.lora("query", 2),
    "query,value": methods.lora("query,value", 4),
    "output": methods.lora("output", 2),
    ALL: methods.lora(ALL, 2),
}


@cache
def config(layers: int = 2, **changes: Any) -> bert.Config:
    sizes: dict[str, Any] = dict(
        kind="bert",
        layers=layers,
        width=64,
        heads=4,
        ffn=256,
        vocabulary=500,
        max_positions=64,
        segments=2,
    )
    return bert.Config(**sizes | changes, epsilon=1e-6, activation="gelu", pad=0)


def split(
    method: methods.Method, compute: str = "float32", **changes: Any
) -> tuple[Any, Any]:
    model = jax.eval_shape(
        lambda key: method.adapt(key, bert.init(key, config(**changes), labels=2)),
        jax.random.key(0),
    )
    trainable, frozen = tree.split(model, methods.mask(model, method))
    return trainable, jax.eval_shape(
        lambda leaves: precision.cast_kernels(leaves, compute), frozen
    )


class TestKept:
    def test_by_hand(self):
        sizes = config(width=16, heads=2, ffn=32)
        learning = tree.leaves(
            split(methods.lora("query,value", 3), width=16, heads=2, ffn=32)[0]
        )
        kept = step_memory.kept(sizes, learning, length=8)
        assert list(kept.values()) == [
            48,
            2 * 2 * 8 + 2 * 2,
            32,
            32,
            16,
            0,
            0,
            0,
            2 * 3,
        ]
        full = tree.leaves(split(methods.full(), width=16, heads=2, ffn=32)[0])
        assert list(step_memory.kept(sizes, full, length=8).values()) == [
            48,
            36,
            32,
            32,
            16,
            16,
            16,
            32,
            0,
        ]
        assert list(step_memory.kept_by_xla(sizes, full, length=8).values()) == [
            16,
            32,
            32,
            0,
        ]
        assert list(step_memory.kept_by_xla(sizes, learning, length=8).values()) == [
            16,
            32,
            0,
            0,
        ]

    @pytest.mark.parametrize("name", METHODS)
    def test_it_is_what_jax_says_a_block_keeps(self, name):
        rows, length = 3, 7  # no size of the model: they tell activations from weights
        trainable, frozen = (
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:]), part.blocks)
            for part in split(METHODS[name])
        )
        mask = jnp.ones((rows, 1, length), bool)
        found: Any = saved_residuals(
            lambda learns, x: tree.merge(learns, frozen)(x, mask),
            trainable,
            jnp.zeros((rows, length, 64)),
        )
        measured = sum(
            aval.size * aval.dtype.itemsize
            for aval, _ in found
            if aval.shape[:1] == (rows,)
        )
        each = sum(
            step_memory.kept(
                config(), tree.leaves(split(METHODS[name])[0]), length
            ).values()
        )
        masked = 5 * rows * 4 * length**2  # once, not in every block
        assert measured == 4 * rows * length * each + masked


class TestPredict:
    @pytest.mark.parametrize(
        ("name", "layers", "compute"),
        [
            ("full", 3, "float32"),
            ("query,value", 3, "bfloat16"),
            (ALL, 3, "float32"),
            ("full", 13, "bfloat16"),
        ],
    )
    def test_it_is_within_10_percent_of_the_compiled_step(self, name, layers, compute):
        trainable, frozen = split(
            METHODS[name], compute, layers=layers, width=384, heads=12, ffn=1536
        )
        shape: Any = {"batch": 32, "length": 64, "compute_dtype": compute}
        predicted, compiled = (
            step_memory.predict(trainable, frozen, **shape),
            step_memory.compiled(trainable, frozen, **shape),
        )
        assert predicted.total == pytest.approx(compiled["total"], rel=0.1)
        of_batch = (
            2 * 4 * 32 * 64 + 3 * 4 * 32 + 4
        )  # tokens, segments; length, label, weight; the learning rate
        assert (
            compiled["arguments"] == predicted.weights + predicted.optimizer + of_batch
        )

    def test_weights_gradients_moments_and_checkpoint_are_exact(self):
        method = methods.lora("query,value", 4)
        adapted = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree.merge(*split(method))
        )
        mask = methods.mask(adapted, method)
        trainable, frozen = tree.split(adapted, mask)
        predicted = step_memory.predict(
            trainable,
            precision.cast_kernels(frozen, "bfloat16"),
            batch=2,
            length=8,
            compute_dtype="bfloat16",
        )
        learns = 2 * 2 * 4 * (64 + 64) + 64 * 2 + 2
        assert (
            predicted.gradients
            == 4 * learns
            == sum(leaf.nbytes for leaf in jax.tree.leaves(trainable))
        )
        state = train.optimizer(train.step_config(train.TrainConfig())).init(trainable)
        assert predicted.optimizer == sum(
            leaf.nbytes for leaf in jax.tree.leaves(state)
        )
        kernels = (
            2 * (4 * 64**2 + 2 * 64 * 256) + 64**2
        )  # in bfloat16, the pooler's too
        assert predicted.weights == 4 * tree.count(adapted) - 2 * kernels
        file = adapter.dump(adapted, mask, {})
        header = 8 + int.from_bytes(file[:8], "little")
        assert predicted.checkpoint == len(file) - header

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 64), st.integers(1, 64))
    def test_activations_grow_with_the_rows_and_faster_than_the_tokens(
        self, batch, length
    ):
        trainable, frozen = cached()
        kept = [
            step_memory.predict(trainable, frozen, batch=b, length=t).activations
            for b, t in ((1, length), (batch, length), (batch, 2 * length))
        ]
        assert kept[1] == batch * kept[0] and kept[2] > 2 * kept[1]

    def test_the_fullest_moment_is_the_update_when_there_are_few_tokens(self):
        few, many = (
            step_memory.predict(*split(methods.full()), batch=batch, length=8)
            for batch in (1, 64)
        )
        assert few.fullest == {
            "weights": few.weights,
            "optimizer": few.optimizer,
            "gradients": 2 * few.gradients,
            "activations": 0,
            "copies": 0,
        }
        assert (
            many.fullest["activations"] == many.activations
            and many.fullest["gradients"] == many.early
        )

    def test_a_model_that_is_no_encoder_is_refused(self):
        sizes = gpt2.Config(2, 16, 2, 32, 50, 16, epsilon=1e-5, activation="gelu_new")
        model = jax.eval_shape(lambda key: gpt2.init(key, sizes), jax.random.key(0))
        with pytest.raises(
            ValueError, match="expected a BERT or RoBERTa encoder, got Decoder"
        ):
            step_memory.predict(
                *tree.split(model, tree.mask(model, ".")), batch=1, length=8
            )

    def test_an_unknown_adapter_is_refused(self):
        class Gain(nnx.Module):
            def __init__(self, layer):
                self.base = layer

            def merged(self):
                return self.base

        model = tree.merge(*split(methods.full()))
        model = tree.replace(model, {"blocks/mlp/up": Gain(model.blocks.mlp.up)})
        with pytest.raises(
            ValueError, match=r"expected no adapters but LoRA's: .* got Gain"
        ):
            step_memory.predict(
                *tree.split(model, tree.mask(model, "bias")), batch=1, length=8
            )


@cache
def cached():
    return split(methods.lora())


class TestStates:
    def test_by_hand(self):
        assert (
            states(10, 3, MIXED) == (10 * 2 + 3 * 4, 6, 24, 6)
            and states(10, 3, MIXED).total == 62
        )
        assert [precision.learning for precision in PRECISIONS.values()] == [
            6,
            8,
            12,
            16,
            16,
        ]
        assert (
            states(65 * 10**9, 65 * 10**9, PRECISIONS["FP16, moments FP32"]).total
            == 780e9
        )  # QLoRA's abstract

    def test_more_cannot_learn_than_there_are(self):
        with pytest.raises(
            ValueError,
            match="learning: expected 0 to 10, the model's parameters, got 11",
        ):
            states(10, 11, HALF)

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
        assert judged(ours, printed) == verdict

    def test_gpt3_against_the_paper(self, script):
        rows = {
            at["precision"]: compare(**at)
            for at in script.cells(script.Config())
            if at.get("architecture") == "gpt3-175b"
        }
        found = {
            claim.claim: (claim.ours, claim.precision, claim.verdict)
            for claim in section_4_2(rows)
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
            step_memory,
            "compiled",
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
            {"key": "", "config": cell, "metrics": compare(**cell)}
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


class TestStacks:
    BAR = stacked_bars.Bar("full", {"weights": 3.0, "gradients": 1.0}, 5.0)

    def test_parts_are_stacked_and_the_whole_lies_beneath(self):
        figure = stacked_bars.stacked(
            [
                [
                    stacked_bars.Panel("a", [self.BAR]),
                    stacked_bars.Panel("b", [self.BAR]),
                ]
            ],
            xlabel="MB",
            whole="compiled",
        )
        patches: Any = figure.axes[0].patches
        bars = [(bar.get_x(), bar.get_width()) for bar in patches]
        np.testing.assert_allclose(bars, [(0, 3), (3, 1), (0, 5)])
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [
            "weights",
            "gradients",
            "compiled",
        ]

    def test_what_cannot_be_drawn_is_said(self):
        with pytest.raises(
            ValueError,
            match=r"expected rows with equally many panels, at least one; got \[\]",
        ):
            stacked_bars.stacked([], xlabel="MB", whole="compiled")
        wrong = [
            stacked_bars.Panel("a", []),
            stacked_bars.Panel("b", [stacked_bars.Bar("full", {"weights": -1.0})]),
        ]
        with pytest.raises(
            ValueError,
            match="'a': expected bars, got none\n'b', 'full': expected weights of 0 or more, got -1",
        ):
            stacked_bars.stacked([wrong], xlabel="MB", whole="compiled")
