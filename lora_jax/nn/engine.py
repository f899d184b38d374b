"""How a model is computed, apart from what it computes."""

from typing import NamedTuple

import jax


class Engine(NamedTuple):
    """What decides on the memory, the time and the rounding of a forward pass.

    The defaults keep everything for the backward pass, in float32.
    """

    remat: str = "none"  # what the backward pass computes anew: `nn.blocks.REMATS`
    activations: str = "float32"  # dtype of the residual stream and of what is kept
    attention: str = "auto"  # one of `nn.attend.ATTENTIONS`
    # jax's name of the backend that the program is compiled for; "" is the default one.
    backend: str = ""

    @property
    def target(self) -> str:
        """The backend that the program is compiled for: cpu, gpu, tpu or rocm."""
        return self.backend or _default_target()


def _default_target() -> str:
    """This process's backend; gpu is NVIDIA's, for AMD's has no cuDNN."""
    backend = jax.default_backend()
    version = jax.local_devices()[0].client.platform_version
    return "rocm" if backend == "gpu" and "rocm" in version.lower() else backend


PLAIN = Engine()
