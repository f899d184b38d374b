"""A training that is stopped and goes on."""

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
    pass


@pytest.fixture(scope="module")
def model(tiny):
    return LORA.adapt(jax.random.key(1), tiny())


@pytest.fixture(scope="module")
def fit(model, examples):
    def fit(config=CONFIG, **options):
        def score(
            candidate,
        ):  # highest after the first epoch, so that the best is not the last
            change = (
                tree.leaves(candidate)["head/kernel"]
                - tree.leaves(model)["head/kernel"]
            )
            return {"closeness": -float(jnp.abs(change).sum())}

        objective = train.Objective(classification.loss, examples, (16,), pad=1)
        options = {"seed": 0, "score": score, **options}
        return train.fit(model, methods.mask(model, LORA), objective, config, **options)

    return fit


@pytest.fixture(scope="module")
def whole(fit):
    return fit()


def killed_at(step):
    def report(at):
        if at.step == step:
            raise Killed

    return report


@pytest.fixture
def save_always(monkeypatch):
    monkeypatch.setattr(state, "SECONDS_BETWEEN_SAVES", 0.0)


class TestResume:
    @pytest.mark.parametrize(
        "step", [2, 5, 12]
    )  # in the first epoch, just after it, at the last step
    def test_killed_and_started_again_it_ends_as_if_never_stopped(
        self, step, fit, whole, same, tmp_path, save_always
    ):
        with pytest.raises(Killed):
            fit(report=killed_at(step), resume=tmp_path / "run")
        steps = []
        again = fit(
            report=lambda at: steps.append((at.step, at.tokens)),
            resume=tmp_path / "run",
        )
        assert steps[0][0] == step, "it goes on before the step it was killed in"
        assert steps[-1] == (12, whole.tokens)
        assert (
            same(again.model, whole.model) and again.best_epoch == whole.best_epoch == 1
        )
        assert (
            again.losses.tobytes() == whole.losses.tobytes()
            and again.validation == whole.validation
        )

    def test_twice_killed_too(self, fit, whole, same, tmp_path, save_always):
        for step in (3, 7):
            with pytest.raises(Killed):
                fit(report=killed_at(step), resume=tmp_path / "run")
        assert same(fit(resume=tmp_path / "run").model, whole.model)

    def test_a_short_training_saves_nothing(self, fit, tmp_path):
        fit(resume=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_one_save_is_kept_and_half_a_save_is_none(self, tmp_path):
        for step in (1, 2):
            training_state.save(tmp_path, step, [np.arange(3.0) * step], {"step": step})
        assert [path.name for path in tmp_path.iterdir() if path.name.isdigit()] == [
            "2"
        ]
        (tmp_path / "3.orbax-checkpoint-tmp").mkdir()  # what a kill leaves behind
        arrays, facts = training_state.restore(tmp_path, [np.zeros(3)])
        assert facts == {"step": 2} and arrays[0].tolist() == [0, 2, 4]

    def test_nothing_saved_is_none(self, tmp_path):
        assert training_state.restore(tmp_path / "none", [np.zeros(3)]) is None
        assert training_state.restore(tmp_path, [np.zeros(3)]) is None

    def test_the_state_of_another_training_is_refused(self, fit, tmp_path):
        training_state.save(tmp_path / "run", 1, [np.zeros(3)], {})
        with pytest.raises(
            ValueError,
            match=r"run: cannot resume from here .*delete it to start this training anew",
        ):
            fit(resume=tmp_path / "run")
