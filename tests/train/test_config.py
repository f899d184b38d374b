"""The configuration of a training: its check, and the learning rate it stands for."""

from dataclasses import fields, replace

import jax
import pytest

from lora_jax import devices, train


class TestLearningRate:
    def rates(self, config: train.TrainConfig, steps: int) -> list[float]:
        return [train.learning_rate(config, step, steps) for step in range(steps)]

    def test_warms_up_and_decays(self):
        config = train.TrainConfig(learning_rate=6.0, warmup=0.25)
        # Two of eight steps warm up.
        expected = [3.0, 6, 6, 5, 4, 3, 2, 1]
        assert self.rates(config, 8) == pytest.approx(expected)

    def test_decays_from_the_start_without_a_warm_up(self):
        config = train.TrainConfig(learning_rate=4.0, warmup=0.0)
        assert self.rates(config, 4) == pytest.approx([4, 3, 2, 1])
        assert train.learning_rate(config, 0, 1) == 4


class TestCheck:
    def test_all_wrong_settings_are_named_at_once(self):
        wrong = train.TrainConfig(
            learning_rate=0,
            epochs=0,
            batch=6,
            accumulate=4,
            pack=-1,
            weight_decay=-1,
            warmup=1,
            clip=-1,
            label_smoothing=1,
            hidden_dropout=1,
            compute_dtype="float16",  # type: ignore[arg-type]
            remat="some",  # type: ignore[arg-type]
            attention="some",  # type: ignore[arg-type]
        )
        with pytest.raises(ValueError) as caught:
            train.check(wrong)
        text = str(caught.value)
        assert "learning_rate: expected > 0, got 0" in text
        assert "accumulate: expected >= 1 and a divisor of batch, got 4" in text
        assert (
            "compute_dtype: expected one of float32, bfloat16, bfloat16_activations, "
            "got float16" in text
        )
        assert (
            "attention: expected one of auto, plain, chunked, cudnn, got some" in text
        )
        # A batch of 6 is fine, offload is wrong on other backends only, and a mesh is
        # looked at where its rows are known.
        fine = ("batch", "offload", "mesh", "shard_base")
        for field in fields(train.TrainConfig):
            if field.name not in fine:
                assert f"{field.name}: expected" in text

    def test_the_dtype_has_to_be_resolved(self):
        config = train.TrainConfig(compute_dtype="auto")
        with pytest.raises(ValueError, match=r"^compute_dtype: expected .*, got auto$"):
            train.check(config)

    @pytest.mark.parametrize(
        ("backend", "changes"),
        [
            ("cpu", {}),
            ("gpu", {"compute_dtype": "bfloat16"}),
            ("gpu", {"hidden_dropout": 0.1}),
        ],
    )
    def test_cudnn_needs_a_gpu_and_what_it_can_compute(
        self, monkeypatch, backend, changes
    ):
        fitting = train.TrainConfig(
            attention="cudnn", compute_dtype="bfloat16_activations"
        )
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        train.check(fitting)
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        text = "attention: expected auto, plain or chunked, .*, got cudnn"
        with pytest.raises(ValueError, match=text):
            train.check(replace(fitting, **changes))

    def test_offload_needs_a_backend_with_such_memory(self, monkeypatch):
        monkeypatch.setattr(devices, "memory_kinds", lambda: ["device"])
        config = replace(train.TrainConfig(), offload=True)
        text = r"offload: .*pinned_host memory.* \(this one: device\), got True"
        with pytest.raises(ValueError, match=text):
            train.check(config)


def test_all_that_is_compiled_comes_from_the_configuration():
    config = train.TrainConfig(
        batch=8,
        accumulate=2,
        weight_decay=0.2,
        clip=3.0,
        label_smoothing=0.4,
        hidden_dropout=0.5,
        compute_dtype="bfloat16",
        offload=True,
        remat="block",
        attention="chunked",
    )
    step = train.step_config(config)
    settings = step._asdict()
    # What is compiled for another backend is not run.
    assert settings.pop("backend") == ""
    for name, value in settings.items():
        assert value == getattr(config, name)
        # None of them is at its default, which could be a coincidence.
        assert value != getattr(train.StepConfig(), name)
