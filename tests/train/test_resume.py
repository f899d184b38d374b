"""A training that is killed and continues from its last save."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lora_jax import methods, train, tree
from lora_jax.checkpoints import training_state
from lora_jax.train import classification, state

LORA = methods.lora(rank=4)
CONFIG = train.TrainConfig(learning_rate=0.02, epochs=3, batch=8)  # 4 steps an epoch


class Killed(BaseException):
    """Stands for the signal that ends a process."""


@pytest.fixture(scope="module")
def model(tiny):
    return LORA.adapt(jax.random.key(1), tiny())


@pytest.fixture(scope="module")
def fit(model, examples):
    """`fit(**options)`: a training whose first epoch is the best, not its last."""

    def score(candidate):
        kernel = tree.leaves(candidate)["head/kernel"]
        change = kernel - tree.leaves(model)["head/kernel"]
        # Highest where the head has moved least.
        return {"closeness": -float(jnp.abs(change).sum())}

    def run(**options):
        objective = train.Objective(classification.loss, examples, (16,), pad=1)
        mask = methods.mask(model, LORA)
        return train.fit(model, mask, objective, CONFIG, seed=0, score=score, **options)

    return run


@pytest.fixture(scope="module")
def uninterrupted(fit):
    return fit()


@pytest.fixture
def save_always(monkeypatch):
    monkeypatch.setattr(state, "SECONDS_BETWEEN_SAVES", 0.0)


def kill(fit, folder, step):
    """Run the training until it is killed after that step."""

    def report(progress):
        if progress.step == step:
            raise Killed

    with pytest.raises(Killed):
        fit(report=report, resume=folder)


@pytest.fixture
def other_fit(model, examples):
    """`other_fit(folder, config, seed, rows)`: a training that differs from `fit`."""

    def run(folder, config=CONFIG, seed=0, rows=examples):
        objective = train.Objective(classification.loss, rows, (16,), pad=1)
        mask = methods.mask(model, LORA)
        return train.fit(model, mask, objective, config, seed=seed, resume=folder)

    return run


@pytest.mark.usefixtures("save_always")
class TestResume:
    # In the first epoch, just after it, at the last step.
    @pytest.mark.parametrize("step", [2, 5, 12])
    def test_it_ends_as_if_it_had_never_been_killed(
        self, step, fit, uninterrupted, same, tmp_path
    ):
        folder = tmp_path / "run"
        kill(fit, folder, step)
        reports = []
        resumed = fit(report=reports.append, resume=folder)
        # The step that it was killed in had not been saved.
        assert reports[0].step == step
        assert reports[-1].step == 12
        assert reports[-1].tokens == uninterrupted.tokens
        assert same(resumed.model, uninterrupted.model)
        assert resumed.best_epoch == uninterrupted.best_epoch == 1
        assert resumed.losses.tobytes() == uninterrupted.losses.tobytes()
        assert resumed.validation == uninterrupted.validation

    def test_it_may_be_killed_twice(self, fit, uninterrupted, same, tmp_path):
        folder = tmp_path / "run"
        kill(fit, folder, 3)
        kill(fit, folder, 7)
        assert same(fit(resume=folder).model, uninterrupted.model)

    def test_the_state_of_another_training_is_refused(self, fit, tmp_path):
        folder = tmp_path / "run"
        training_state.save(folder, 1, [np.zeros(3)], {})
        text = r"run: cannot resume from here .*delete it to start this training anew"
        with pytest.raises(ValueError, match=text):
            fit(resume=folder)

    def test_a_save_that_does_not_say_of_which_training_is_refused(
        self, fit, tmp_path, monkeypatch
    ):
        folder = tmp_path / "run"
        monkeypatch.setattr(state, "IDENTITY", "name_of_an_earlier_version")
        kill(fit, folder, 5)
        monkeypatch.undo()
        text = "run: does not say which training it is of, .*; delete it to start"
        with pytest.raises(ValueError, match=text):
            fit(resume=folder)

    @pytest.mark.parametrize(
        "facts",
        [
            {"losses": ["a"]},
            {"losses": 3},
            {"tokens": "many"},
            {"validation": None},
            {"best_epoch": 1.5},
            {"best_score": []},
            {"another": 1},
        ],
    )
    def test_a_history_of_another_kind_is_refused(self, facts, tmp_path):
        saver = state.Saver(tmp_path / "run", dict)
        text = "run: expected the losses and scores of a training, got others .*; del"
        with pytest.raises(ValueError, match=text):
            saver.history(facts)
        whole = saver.history({"losses": [1, 0.5], "tokens": 7, "best_score": 1})
        assert whole == state.History([1.0, 0.5], 7, best_score=1.0)

    def test_another_seed_rate_or_rows_are_another_training(
        self, fit, other_fit, examples, tmp_path
    ):
        """All with leaves of the same shapes, so that only the identity tells."""
        folder = tmp_path / "run"
        kill(fit, folder, 5)
        faster = dataclasses.replace(CONFIG, learning_rate=0.05, epochs=4)
        text = "run: holds another training, with learning_rate 0.02, not 0.05; epochs 3, not 4; delete"
        with pytest.raises(ValueError, match=text):
            other_fit(folder, config=faster)
        with pytest.raises(ValueError, match="with seed 0, not 9; delete"):
            other_fit(folder, seed=9)
        reversed_rows = examples._replace(label=examples.label[::-1])
        with pytest.raises(ValueError, match="with other training rows; delete"):
            other_fit(folder, rows=reversed_rows)


def test_a_short_training_saves_nothing(fit, tmp_path):
    fit(resume=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class TestTrainingState:
    def test_one_save_is_kept_and_half_a_save_is_none(self, tmp_path):
        for step in (1, 2):
            arrays = [np.arange(3.0) * step]
            training_state.save(tmp_path, step, arrays, {"step": step})
        saves = [path.name for path in tmp_path.iterdir() if path.name.isdigit()]
        assert saves == ["2"]
        # This is what a kill leaves behind.
        (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
        arrays, facts = training_state.restore(tmp_path, [np.zeros(3)])
        assert facts == {"step": 2}
        assert arrays[0].tolist() == [0, 2, 4]

    def test_nothing_saved_is_none(self, tmp_path):
        assert training_state.restore(tmp_path / "none", [np.zeros(3)]) is None
        assert training_state.restore(tmp_path, [np.zeros(3)]) is None
