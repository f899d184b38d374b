"""Which backend a program is compiled for."""

from types import SimpleNamespace

import jax
import pytest

from lora_jax.nn.engine import Engine


@pytest.mark.parametrize(
    ("backend", "version", "target"),
    [
        ("cpu", "<unknown>", "cpu"),
        ("gpu", "PJRT C API\ncuda 12090", "gpu"),
        # AMD's GPUs are gpu to jax as well, and have no cuDNN.
        ("gpu", "PJRT C API\nrocm 60300", "rocm"),
        ("tpu", "PJRT C API\nTFRT TPU v5 lite", "tpu"),
    ],
)
def test_the_target_is_the_default_backend(backend, version, target, monkeypatch):
    device = SimpleNamespace(client=SimpleNamespace(platform_version=version))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert Engine().target == target
    # What a step is compiled for need not be there.
    assert Engine(backend="tpu").target == "tpu"
