"""The numbers of a training step that decide on its memory, and what they imply.

Nothing is computed but shapes; arrays and shapes will do alike.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lora_jax import quant, tree
from lora_jax.nn import precision
from lora_jax.nn.attend import choose
from lora_jax.nn.blocks import should_unroll
from lora_jax.nn.visibility import Visibility
from lora_jax.train.config import StepConfig
from lora_jax.train.kept import FLOAT32, BlockSizes, block_kernels, block_sizes

# XLA's compiler for CPUs writes parts of the GELU out from so many tokens on (of 3,072
# and 4,096, measured; it does not say why).
PARTS_TOKENS = 4096


class StepShape(NamedTuple):
    """A step, and what follows from its settings."""

    sizes: BlockSizes
    trainable: dict[str, Any]  # leaves by path
    kernels: dict[str, Any]  # of the blocks, by path
    rows: int
    length: int  # tokens of a row
    config: StepConfig
    attention: str  # plain, chunked or cudnn
    is_unrolled: bool  # the blocks are straight code, not a loop

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def on_cpu(self) -> bool:
        return self.config.engine.target == "cpu"

    @property
    def product_bytes(self) -> int:
        """Bytes of a factor of a product."""
        dtype = precision.product_dtype(self.config.compute_dtype)
        return jnp.dtype(dtype).itemsize

    @property
    def stream_bytes(self) -> int:
        """Bytes of a number between layers, as the program has it."""
        return jnp.dtype(self.config.engine.activations).itemsize

    @property
    def kept_bytes(self) -> int:
        """Bytes of a number between layers, as XLA keeps it."""
        # XLA's CPU backend converts what was kept back to float32 all at once.
        return FLOAT32 if self.on_cpu else self.stream_bytes

    @property
    def is_narrow(self) -> bool:
        """Whether products have narrower factors than float32."""
        return self.product_bytes < FLOAT32

    @property
    def has_narrow_stream(self) -> bool:
        return self.stream_bytes < FLOAT32

    @property
    def is_quantized(self) -> bool:
        return any(map(quant.is_quantized, self.kernels.values()))

    @property
    def keeps_products(self) -> bool:
        """Whether what the blocks' own matrices return is kept, see `saved_products`."""
        is_plain = self.product_bytes == self.stream_bytes and not self.is_quantized
        return is_plain and self.config.remat == "products"

    @property
    def kept_blocks(self) -> int:
        """The blocks that keep something for all tokens."""
        # The last block of an encoder is computed for one token alone.
        return self.sizes.layers - (not self.sizes.is_decoder)

    @property
    def writes_parts(self) -> bool:
        """Whether XLA's CPU backend writes parts of the GELU out.

        It fuses them into what reads them where a step has fewer tokens.
        """
        return not self.sizes.has_gate and self.tokens >= PARTS_TOKENS


def step_shape(
    trainable: Any, frozen: Any, config: StepConfig, *, rows: int, length: int
) -> StepShape:
    """Return a step's shape; arguments are as for `footprint.moments`."""
    blocks = tree.merge(trainable, frozen).blocks
    return StepShape(
        sizes=block_sizes(trainable, frozen),
        trainable=tree.leaves(trainable),
        kernels=block_kernels(trainable, frozen),
        rows=rows,
        length=length,
        config=config,
        attention=_attention(trainable.config, config, rows, length),
        is_unrolled=should_unroll(blocks, config.remat),
    )


def _attention(sizes: Any, config: StepConfig, rows: int, length: int) -> str:
    """How attention is computed, which is chosen by its shapes."""
    head_dim = getattr(sizes, "head_dim", sizes.width // sizes.heads)
    engine = config.engine
    shape = (rows, sizes.heads, length, head_dim)
    tokens: Any = jax.ShapeDtypeStruct(shape, engine.activations)
    causal = Visibility(first_query=0)
    return choose(tokens, tokens, causal, engine, rate=config.hidden_dropout)
