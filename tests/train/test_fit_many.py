"""Populations end as their cells would have ended alone."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import data, methods, quant, train
from lora_jax.models import bert
from lora_jax.nn import layers, plain_attention, precision
from lora_jax.train import classification, population, state, together
from lora_jax.train.cells import check_cells, settings_of
from lora_jax.train.population_step import population_step
from tests.train.jaxprs import equations, output_shapes

ATTENTION = "query,key,value,output"
LORA: dict[str, Any] = {"idle_targets": ATTENTION, "rank_multiple": 2}
# Four steps an epoch: 20 steps.
CONFIG = train.TrainConfig(learning_rate=0.01, epochs=5, batch=8, weight_decay=0.1)
SHORT = replace(CONFIG, epochs=2)
ONE_WIDTH = (16,)


class Killed(BaseException):
    """Stands for the signal that ends a process."""


class Float64:
    """`jax.numpy` without float32."""

    float32 = jnp.float64

    def __getattr__(self, name):
        return getattr(jnp, name)


@pytest.fixture(scope="module")
def cell(tiny):
    """`cell(config, seed, **options)`: the tiny encoder with LoRA."""

    def make(
        config: train.TrainConfig = SHORT, seed: int = 0, base: Any = None, **options
    ) -> train.Cell:
        method = methods.lora(**{"rank": 2, **LORA, **options})
        model = method.adapt(jax.random.key(seed), tiny() if base is None else base)
        return train.Cell(model, methods.mask(model, method), config, seed)

    return make


@pytest.fixture(scope="module")
def unlike(cell):
    """Cells that differ in all that cells may differ in."""
    return [
        cell(CONFIG),
        cell(CONFIG, rank=8, alpha=4.0, rank_stabilized=True),
        cell(replace(CONFIG, learning_rate=0.002, warmup=0.5), targets=ATTENTION),
        cell(replace(CONFIG, weight_decay=0.0), targets="query", rank=1),
        cell(CONFIG, seed=7, init="kaiming_uniform", rank=7, layers=(1,)),
    ]


def objective(examples, widths=ONE_WIDTH) -> train.Objective:
    return train.Objective(classification.loss, examples, widths, pad=1)


def alone(cell: train.Cell, goal: train.Objective, **options: Any) -> train.Fit:
    return train.fit(
        cell.model, cell.mask, goal, cell.config, seed=cell.seed, **options
    )


def assert_as_alone(cells, goal, tolerance) -> None:
    """Train the cells together and one by one, and compare losses and leaves."""
    together = train.fit_many(cells, goal)
    for cell, result in zip(cells, together, strict=True):
        expected = alone(cell, goal)
        assert isinstance(result, train.Fit)
        # Losses are kept in float32.
        np.testing.assert_allclose(result.losses, expected.losses, rtol=1e-6)
        assert result.tokens == expected.tokens
        assert result.best_epoch == expected.best_epoch == cell.config.epochs
        # The arrays of a quantized value are leaves here.
        structure = jax.tree.structure(expected.model)
        assert jax.tree.structure(result.model) == structure
        leaves = jax.tree.leaves(result.model)
        for leaf, reference in zip(
            leaves, jax.tree.leaves(expected.model), strict=True
        ):
            assert leaf.dtype == reference.dtype
            np.testing.assert_allclose(leaf, reference, rtol=0, atol=10 * tolerance)


class TestEquality:
    def test_20_steps_in_float32(self, unlike, examples):
        assert_as_alone(unlike, objective(examples), 1e-6)

    def test_20_steps_in_float64(self, unlike, examples, monkeypatch):
        with jax.enable_x64(True):
            # Norms, softmax, logits and what is between products are in float32
            # otherwise.
            for module in (layers, plain_attention, bert):
                monkeypatch.setattr(module, "jnp", Float64())
            monkeypatch.setattr(precision, "activation_dtype", lambda _: "float64")
            cells = []
            for cell in unlike:
                model = jax.tree.map(lambda leaf: leaf.astype(float), cell.model)
                cells.append(cell._replace(model=model))
            assert_as_alone(cells, objective(examples), 1e-10)

    def test_dropout_is_drawn_by_the_seed_of_the_cell(self, cell, examples):
        config = replace(SHORT, hidden_dropout=0.2)
        cells = [cell(config, seed, dropout=0.3) for seed in (0, 0, 5)]
        cells[1] = cells[1]._replace(config=replace(config, learning_rate=0.02))
        assert_as_alone(cells, objective(examples), 1e-6)

    def test_orders_of_the_rows_may_have_other_widths(self, cell, examples):
        cells = [cell(seed=seed) for seed in (0, 1, 1)]
        assert_as_alone(cells, objective(examples, (8, 12, 16)), 1e-6)

    def test_micro_batches(self, cell, examples):
        config = replace(SHORT, accumulate=2, clip=0.5)
        assert_as_alone([cell(config), cell(config, 1)], objective(examples), 1e-6)

    def test_a_quantized_base(self, cell, examples, tiny):
        base = quant.quantize_model(tiny(), quant.find_spec("nf4"))
        cells = [cell(base=base), cell(base=base, rank=1)]
        assert_as_alone(cells, objective(examples), 1e-6)


class TestSharing:
    def test_a_matrix_is_one_factor_for_the_rows_of_all_cells(self, cell, examples):
        """Its product has the rows of all cells, and no copy of it has their axis."""
        cells = [cell(), cell(seed=1, rank=1), cell(alpha=3.0)]
        products = products_of(cells, examples)
        widths = {"key": (16, 16), "up": (16, 32), "down": (32, 16)}
        for shape in widths.values():
            # Neither factor nor its transpose ever has an axis of 3 cells.
            assert shape in products
            assert (3, *shape) not in products
            assert (3, *shape[::-1]) not in products

    def test_a_quantized_matrix_is_dequantized_once(self, cell, examples, tiny):
        spec = quant.find_spec("nf4")
        base = quant.quantize_model(tiny(), spec)
        one = lookups([cell(base=base)], examples)
        three = lookups([cell(base=base, seed=seed) for seed in range(3)], examples)
        assert one
        assert three == one

    def test_cells_in_a_loop_are_the_same(self, cell, examples, monkeypatch):
        cells = [cell(), cell(rank=1), cell(alpha=3.0), cell(targets="key")]
        for count in (1, 2):
            monkeypatch.setattr(together, "cells_together", lambda *_, n=count: n)
            assert_as_alone(cells, objective(examples), 1e-6)

    def test_a_population_compiles_once(self, cell, examples):
        def compilations() -> int:
            return population_step._cache_size()  # pyright: ignore

        # A smoothing of no other test, so that nothing is compiled before.
        config = replace(SHORT, label_smoothing=0.03)
        before = compilations()
        train.fit_many([cell(config), cell(config, rank=4)], objective(examples))
        assert compilations() == before + 1
        changed = replace(config, learning_rate=0.1, weight_decay=0.0)
        cells = [cell(changed, seed=3), cell(config, seed=3, rank=3, alpha=1.0)]
        train.fit_many(cells, objective(examples))
        assert compilations() == before + 1


class TestEpochs:
    def test_the_best_epoch_is_that_of_the_cell(self, cell, examples):
        cells = [cell(), cell(seed=1)]
        scores = iter([[0.1, 0.9], [0.8, 0.2]])

        def score(population, live):
            assert population.size == 2
            assert live == [0, 1]
            return [{"accuracy": value} for value in next(scores)]

        first, second = train.fit_many(cells, objective(examples), score=score)
        assert isinstance(first, train.Fit)
        assert isinstance(second, train.Fit)
        assert (first.best_epoch, second.best_epoch) == (2, 1)
        assert second.validation == [{"accuracy": 0.9}, {"accuracy": 0.2}]
        # A second epoch was not the end of the second cell.
        ended_early = alone(
            cells[1],
            objective(examples),
            score=lambda _: {"accuracy": 0.0},
        )
        leaves = jax.tree.leaves(second.model)
        for leaf, reference in zip(
            leaves, jax.tree.leaves(ended_early.model), strict=True
        ):
            np.testing.assert_allclose(leaf, reference, atol=1e-5)

    def test_progress_counts_cells_and_the_tokens_of_all(self, cell, examples):
        reports: list[train.Progress] = []
        cells = [cell(), cell(seed=1)]
        first, second = train.fit_many(
            cells, objective(examples), report=reports.append
        )
        assert [progress.step for progress in reports] == list(range(1, 9))
        assert {progress.cells for progress in reports} == {2}
        assert isinstance(first, train.Fit)
        assert isinstance(second, train.Fit)
        assert reports[-1].tokens == first.tokens + second.tokens
        mean = (first.losses[0] + second.losses[0]) / 2
        assert math.isnan(reports[0].loss)
        assert reports[1].loss == pytest.approx(mean)


class TestDivergence:
    def test_a_cell_that_diverges_ends_alone(self, cell, examples):
        wild = cell(replace(SHORT, learning_rate=1e30))
        calm = cell()
        scored = []

        def score(_, live):
            scored.append(list(live))
            return [{"accuracy": 0.5} for _ in live]

        goal = objective(examples)
        diverged, result = train.fit_many([wild, calm], goal, score=score)
        assert isinstance(diverged, train.Diverged)
        with pytest.raises(train.Diverged) as caught:
            alone(wild, goal)
        assert str(diverged) == str(caught.value)
        assert isinstance(result, train.Fit)
        np.testing.assert_allclose(result.losses, alone(calm, goal).losses, rtol=1e-6)
        assert scored == [[1], [1]]

    def test_nothing_goes_on_once_all_have_diverged(self, cell, examples):
        wild = cell(replace(SHORT, learning_rate=1e30))
        reports: list[train.Progress] = []
        results = train.fit_many(
            [wild, wild], objective(examples), report=reports.append
        )
        assert all(isinstance(result, train.Diverged) for result in results)
        assert reports[-1].step < 8
        assert reports[-1].cells == 0


class TestResume:
    @pytest.mark.parametrize("step", [2, 6])
    def test_it_ends_as_if_it_had_never_been_killed(
        self, step, cell, examples, same, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(state, "SECONDS_BETWEEN_SAVES", 0.0)
        # One cell has diverged before the save of step 6.
        cells = [cell(), cell(seed=1), cell(replace(SHORT, learning_rate=1e30))]

        def score(_, live):
            return [{"accuracy": 1.0 / (1 + index)} for index in live]

        def kill(progress):
            if progress.step == step:
                raise Killed

        def run(**options):
            return train.fit_many(cells, objective(examples), score=score, **options)

        reports: list[train.Progress] = []
        with pytest.raises(Killed):
            run(report=kill, resume=tmp_path / "run")
        resumed = run(report=reports.append, resume=tmp_path / "run")
        expected = run()
        assert reports[0].step == step
        for result, reference in zip(resumed[:2], expected[:2], strict=True):
            assert same(result.model, reference.model)
            assert result.losses.tobytes() == reference.losses.tobytes()
            assert result[1:3] == reference[1:3]
            assert result.tokens == reference.tokens
        assert str(resumed[2]) == str(expected[2])

    def test_another_population_is_refused(self, cell, examples, tmp_path, monkeypatch):
        monkeypatch.setattr(state, "SECONDS_BETWEEN_SAVES", 0.0)
        goal = objective(examples)
        train.fit_many([cell(), cell(seed=1)], goal, resume=tmp_path)
        faster = cell(replace(SHORT, learning_rate=0.5))
        text = "cell 1's learning_rate 0.01, not 0.5; delete it"
        with pytest.raises(ValueError, match=text):
            train.fit_many([faster, cell(seed=1)], goal, resume=tmp_path)


class TestWrongCells:
    def test_settings_that_are_compiled(self, cell):
        cells = [cell(), cell(replace(SHORT, batch=4, clip=0.5)), cell()]
        text = (
            "expected settings that differ in learning_rate, weight_decay, warmup and "
            "seed alone; cell 2 has batch 4, not 8, clip 0.5, not 1.0"
        )
        with pytest.raises(ValueError, match=text):
            check_cells(cells, ONE_WIDTH)
        with pytest.raises(ValueError, match="expected at least one cell, got none"):
            check_cells([], ONE_WIDTH)

    def test_dropout_with_orders_of_several_widths(self, cell):
        cells = [cell(dropout=0.1), cell(seed=1, dropout=0.1)]
        check_cells(cells, ONE_WIDTH)
        with pytest.raises(ValueError, match="several seeds need batches of one width"):
            check_cells(cells, (8, 16))

    def test_other_leaves(self, cell, examples):
        other = cell(idle_targets=None, targets="query")
        text = "same trainable leaves, cells 1 and 2 differ: blocks/attention/"
        with pytest.raises(ValueError, match=text):
            train.fit_many([cell(), other], objective(examples))

    def test_another_rate_of_dropout(self, cell, examples):
        text = "cells 1 and 2 differ: other settings in their layers"
        with pytest.raises(ValueError, match=text):
            train.fit_many([cell(), cell(dropout=0.5)], objective(examples))


def program(cells, examples) -> Any:
    """The equations of a population's step."""
    batch = next(data.batches(examples, size=8, widths=ONE_WIDTH, seed=0, pad=1))
    batches = jax.tree.map(lambda rows: rows[None], batch)
    gathered = population.gather(
        [cell.model for cell in cells], [cell.mask for cell in cells]
    )
    config = train.step_config(replace(SHORT, weight_decay=0.0))
    moments = jax.vmap(train.optimizer(config).init)(gathered.trainable)
    traced = population_step.trace(
        gathered.trainable,
        moments,
        gathered.private,
        gathered.shared,
        batches,
        settings_of(cells),
        np.int32(0),
        loss=classification.loss,
        config=config,
    )
    return list(equations(traced.jaxpr.jaxpr))


def products_of(cells, examples) -> set[tuple[int, ...]]:
    """The shapes of all factors of products in a population's step."""
    shapes = set()
    for equation in program(cells, examples):
        if equation.primitive.name == "dot_general":
            shapes |= {variable.aval.shape for variable in equation.invars}
    return shapes


def lookups(cells, examples) -> list[tuple[int, ...]]:
    """The shapes of what is read from the table of a format's values, sorted."""
    shapes = []
    for equation in program(cells, examples):
        is_lookup = equation.primitive.name == "gather"
        if is_lookup and equation.invars[0].aval.shape == (16,):
            shapes += output_shapes(equation)
    return sorted(shapes)
